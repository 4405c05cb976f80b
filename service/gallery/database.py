"""The gallery's database: SQLite or PostgreSQL, migrated when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_TIMEOUT_S = 5.0


def open_database(url: str) -> Engine:
    """Connect to the database at `url` and bring its tables to this version.

    url: sqlite:///file.db or postgresql+psycopg://user:password@host/name.
    Raises ValueError if the URL is invalid, a package for it is missing, or the database was
    written by a later version.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ArgumentError(f"the database {backend!r} is not supported")
        is_sqlite = backend == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": not is_sqlite}
        if is_sqlite:
            options["connect_args"] = {"timeout": LOCK_TIMEOUT_S}
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ValueError(
            f"{error}; use sqlite:///file.db, or postgresql+psycopg://user:password@host/name "
            "with pip install psycopg"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _configure_sqlite)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def migrate(engine: Engine) -> None:
    """Run the migrations that the database does not have yet, in one transaction.

    Raises ValueError if the database was written by a later version.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    revisions = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in revisions:
            raise ValueError(
                f"the database is at revision {current!r}, which this version does not know; "
                "update the service, or restore a backup"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _configure_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    # Readers do not wait for the writer, and a commit is on disk when it returns.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
