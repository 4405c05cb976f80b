// The exact call that made an image, for curl, Python and OpenAI's client.

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) =>
  value === null ? "None" : value === true ? "True" : value === false ? "False" : typeof value === "string" ? JSON.stringify(value)
    : Array.isArray(value) ? `[${value.map(python).join(", ")}]`
    : typeof value === "object" ? `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item)}`).join(", ")}}`
    : String(value);

/** Shorten data URLs, which would fill the screen. */
export function shorten(body) {
  const text = JSON.stringify(body, (name, value) => (typeof value === "string" && value.startsWith("data:") ? "<image as base64>" : value));
  return JSON.parse(text);
}

const METHODS = { generate: "generate", variations: "variations", interpolate: "interpolate", "text-diff": "text_diff", edits: "edits", edit: "edits", probe: "probe" };

/** Return [{name, text}]: the call as curl, Python and, for plain generation, OpenAI's client. */
export function callsOf(path, body, origin) {
  const request = shorten(body);
  const route = path === "edit" ? "edits" : path;
  const calls = [
    {
      name: "curl",
      text: `curl -s ${origin}/${route} \\\n  -H 'Content-Type: application/json' -H 'Prefer: wait=60' \\\n  -d ${quote(JSON.stringify(request))}`,
    },
    {
      name: "Python",
      text: [
        "from unclip_client import Client",
        "",
        `client = Client(${python(origin)})`,
        `image = client.${METHODS[path] || path}(`,
        ...Object.entries(request).map(([name, value]) => `    ${name}=${python(value)},`),
        ")",
        'image.save("image.png")',
      ].join("\n"),
    },
  ];
  if (path === "generate" && request.prompt) {
    const size = request.size && request.size !== 64 ? request.size : 256;
    calls.push({
      name: "OpenAI",
      text: [
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url=${python(`${origin}/v1`)}, api_key="any")`,
        "image = client.images.generate(",
        '    model="dall-e-2",',
        `    prompt=${python(request.prompt)},`,
        `    n=${request.n || 1},`,
        `    size="${size}x${size}",`,
        `    extra_body={"seed": ${request.seed}},`,
        ")",
      ].join("\n"),
    });
  }
  return calls;
}
