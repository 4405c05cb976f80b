"""`make licenses`: list the licences of what the images install, and reject unknown ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from devtools.lock import FOLDER, read_requirements

RUNTIME = ("service", "torch", "worker")
# Licences by their SPDX identifiers. Each permits use in a service, and redistribution in an image
# with its notice, which stays in the package's folder.
ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-CMU",
        # Copyleft for changed files of the package alone. They are installed unchanged.
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
    }
)
# Older metadata names licences freely. An unversioned "BSD" is the 2- or the 3-clause one.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
NVIDIA = "only images with CUDA hold it; read NVIDIA's terms before you publish one"
# Packages whose licence is not on the list, with the reason that permits them.
EXCEPTIONS = {
    r"nvidia-.+": NVIDIA,
    "cuda-toolkit": "a package without files, which only requires others",
}


@dataclass(frozen=True)
class License:
    """The licence of an installed package; `reason` if an exception permits it."""

    package: str
    version: str
    expression: str
    reason: str
    is_allowed: bool


def runtime_requirements() -> list[Requirement]:
    """Return what the images install on this platform, by name."""
    requirements = {
        requirement.name: requirement
        for name in RUNTIME
        for requirement in read_requirements(FOLDER / f"{name}.txt")
        if requirement.marker is None or requirement.marker.evaluate()
    }
    return [requirements[name] for name in sorted(requirements)]


def find_license(package: str) -> License:
    """Return the licence of an installed package.

    Raises importlib.metadata.PackageNotFoundError if it is not installed.
    """
    fields = metadata.metadata(package)
    expression = read_expression(
        fields.get_all("License-Expression", []),
        fields.get_all("Classifier", []),
        fields.get_all("License", []),
    )
    reason = next((why for name, why in EXCEPTIONS.items() if re.fullmatch(name, package)), "")
    is_allowed = bool(reason) or is_expression_allowed(expression)
    return License(package, metadata.version(package), expression, reason, is_allowed)


def read_expression(
    expressions: Sequence[str], classifiers: Sequence[str], texts: Sequence[str]
) -> str:
    """Return an SPDX expression from a package's metadata, "unknown" without any.

    The License-Expression field comes first, then the classifiers, then the License field. All
    classifiers count, since it is open whether a user may choose.
    """
    if expressions:
        return expressions[0]
    names = [
        classifier.rpartition(" :: ")[2]
        for classifier in classifiers
        if classifier.startswith("License :: ")
    ]
    if not names:
        names = [text.strip().partition("\n")[0] for text in texts if text.strip()]
    return " AND ".join(SPDX.get(name, name) for name in names) or "unknown"


def is_expression_allowed(expression: str) -> bool:
    """Return whether an SPDX expression is on the list. A choice needs one of its licences."""
    if " OR " in expression and " AND " not in expression:
        return any(name in ALLOWED for name in expression.split(" OR "))
    names = re.split(r" (?:AND|OR) ", re.sub(r"[()]", "", expression))
    return all(name in ALLOWED for name in names)


def main() -> None:
    """Print all licences. Exit with the names of those that are not allowed."""
    licenses = [find_license(requirement.name) for requirement in runtime_requirements()]
    for each in licenses:
        note = f"  ({each.reason})" if each.reason else ""
        print(f"{each.package:42} {each.version:16} {each.expression}{note}")
    rejected = [f"{each.package}: {each.expression}" for each in licenses if not each.is_allowed]
    if rejected:
        sys.exit(
            f"Not on the list of devtools/licenses.py: {', '.join(rejected)}. "
            "Choose another package, or add the licence with a reason."
        )


if __name__ == "__main__":
    main()
