"""The OpenAPI document is valid, and true: schemathesis sends what it says and what it does not say.

    v/bin/pip install -r tests/clients/requirements.txt
    v/bin/python tests/clients/openapi.py target/debug/alula [EXAMPLES OF A ROUTE]

No answer may be a 5xx, of a status or a content type that the document does not name, or of another form than it says;
what breaks the document must be refused. That everything that keeps to it is accepted is not asked: whether fields fit
each other, and whether a prompt fits the context, is more than a schema can say.
"""

import os
import pathlib
import subprocess
import sys

import httpx2 as httpx
import openapi_spec_validator
from server import serving

CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"]


def main():
    examples = sys.argv[2] if len(sys.argv) > 2 else "20"
    with serving(sys.argv[1]) as url:
        openapi_spec_validator.validate(httpx.get(f"{url}/openapi.json").json())
        print("ok the document is valid", flush=True)
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS),
                   "--max-examples", examples, "--seed", "1", "--generation-database", "none", "--workers", "2",
                   "--request-timeout", "60", "--no-color", *sys.argv[3:]]
        here = pathlib.Path(__file__).resolve().parent
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(here)}
        sys.exit(subprocess.run(command, env=env, check=False).returncode)


if __name__ == "__main__":
    main()
