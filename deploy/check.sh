#!/bin/sh
# Checks what is in this folder: alert rules and their tests, and that every series that rules and panels name is one that a
# server's /metrics has (a file of its text is the argument). Needs promtool (Debian: prometheus) and python3.
set -eu
cd "$(dirname "$0")"
PROMTOOL=${PROMTOOL:-promtool}
"$PROMTOOL" check rules alerts.yml
"$PROMTOOL" test rules alerts_test.yml
python3 - "${1:-}" <<'PY'
import json, re, sys
board = json.load(open("grafana.json"))
exprs = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
rules = open("alerts.yml").read()
names = set(re.findall(r"\balula_\w+", " ".join(exprs) + rules))
ids = [p["id"] for p in board["panels"]]
assert len(ids) == len(set(ids)) and len(exprs) >= 10, "panels"
if sys.argv[1]:
    have = set(re.findall(r"^(\w+)[ {]", open(sys.argv[1]).read(), re.M))
    missing = names - have
    assert not missing, f"no server has {sorted(missing)}"
    print(f"{len(names)} series of rules and panels are there")
print(f"{len(ids)} panels")
PY
# Prometheus reads the text; its advice on names concerns vLLM's, which are what they are.
if [ -n "${1:-}" ]; then
    advice=$("$PROMTOOL" check metrics <"$1" 2>&1 | grep -v '^vllm:' || true)
    [ -z "$advice" ] || { echo "$advice"; exit 1; }
fi
# The panels' queries are what Prometheus can read.
python3 -c '
import json
for p in json.load(open("grafana.json"))["panels"]:
    for t in p.get("targets", []):
        print(t["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$model", ".*"))
' | { n=0; out=$(mktemp); echo 'groups: [{name: panels, rules: [' >"$out"
    while IFS= read -r q; do n=$((n + 1)); printf '{record: "panel:%s", expr: %s},\n' "$n" "$(printf '%s' "$q" | python3 -c 'import json,sys; print(json.dumps(sys.stdin.read()))')" >>"$out"; done
    echo ']}]' >>"$out"; "$PROMTOOL" check rules "$out"; rm "$out"; }
