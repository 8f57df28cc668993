#!/usr/bin/env bash
# Asks a question about the Python standard library's own source, shows how it is answered, and checks the answer with
# grep. The demo model answers, so no key is needed and nothing is spent; arguments go to `rlm complete` and can name
# another model: scripts/demo.sh --model gpt-5
set -euo pipefail
cd "$(dirname "$0")/.."

rlm=.venv/bin/rlm
stdlib=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
question='On how many lines is `lru_cache` used as a decorator, and in which files?'
pattern='^[[:space:]]*@([[:alnum:]_]+\.)*lru_cache\b'
answer=$(mktemp)
trap 'rm -f "$answer" "$answer.places" "$answer.grep"' EXIT

bold=() plain=()
if [[ -t 1 ]]; then bold=($'\e[1m') plain=($'\e[0m'); fi
heading() { printf '\n%s%s%s\n' "${bold[*]-}" "$1" "${plain[*]-}"; }

arguments=("$@")
[[ $# -gt 0 ]] || arguments=(--model demo-model)
command=("$rlm" complete --context "$stdlib" --glob '*.py' --exclude site-packages "${arguments[@]}" "$question")
files=$(find "$stdlib" -name site-packages -prune -o -name '*.py' -type f -print | wc -l)
bytes=$(find "$stdlib" -name site-packages -prune -o -name '*.py' -type f -print0 | xargs -0 cat | wc -c)
heading "The context: $files files, $((bytes / 1000000)) MB of Python in $stdlib"
echo "$rlm complete --context $stdlib --glob '*.py' --exclude site-packages ${arguments[*]} '$question'"
SECONDS=0
"${command[@]}" --output "$answer"
echo "took $SECONDS s in all, servers started and stopped included"

check=(grep -rnE --include='*.py' --exclude-dir=site-packages "$pattern" "$stdlib")
heading 'The check; anyone can repeat it:'
echo "grep -rnE --include='*.py' --exclude-dir=site-packages '$pattern' $stdlib"
"${check[@]}" | sed "s|^$stdlib/||" | cut -d: -f1,2 | sort >"$answer.grep" || true
echo "grep finds $(wc -l <"$answer.grep") lines in $(cut -d: -f1 "$answer.grep" | sort -u | wc -l) files"

# The demo model's report has a line for each file: `path: 12, 34`. Other models word their answers as they like.
sed -nE 's/^([^ ]+): ([0-9]+(, [0-9]+)*)$/\1 \2/p' "$answer" |
  awk '{ for (i = 2; i <= NF; i++) { sub(/,$/, "", $i); print $1 ":" $i } }' | sort >"$answer.places"
if diff "$answer.places" "$answer.grep" >/dev/null; then
  echo 'The answer has the same lines in the same files.'
elif [[ $# -eq 0 ]]; then
  echo 'The answer differs (< answer, > grep):'
  diff "$answer.places" "$answer.grep"
else
  cut -d: -f1 "$answer.grep" | sort | uniq -c
fi
