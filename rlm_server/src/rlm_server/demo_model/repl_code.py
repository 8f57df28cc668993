"""The code that the demo model writes in the REPL, step by step. Each block ends by printing that its step is done."""

from __future__ import annotations

LOOK = r'''
# demo-model step 1: look at the context
import json, re
pictures = []

def texts_in(value, where=""):
    """Yields (where, text) for every text in the context, whatever its shape."""
    if isinstance(value, str):
        yield where or "context", value
    elif isinstance(value, dict) and isinstance(value.get("text"), str):
        yield str(value.get("id") or value.get("path") or where), value["text"]
    elif isinstance(value, dict) and where and not any(isinstance(item, (dict, list)) for item in value.values()):
        yield where, json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts_in(item, f"{where}[{index}]")
    elif hasattr(value, "media_type"):
        pictures.append((where or "context", value))
    else:
        yield where or "context", json.dumps(value)

question, texts = @QUERY@, list(texts_in(context))
if question.startswith("Your task is the text in the variable `context`"):  # a child that was given one text for all
    question = context
question, is_child, _ = question.partition("Reply with JSON only")  # a parent will add up what its child says
print(f"context is a {type(context).__name__} with {len(texts)} texts, "
      f"{sum(len(text) for _, text in texts)} characters, {len(pictures)} images")
print("question:", question[:500])
for where, text in texts[:3]:
    print(f"sample of {where}: {text[:120]!r}")
print("demo-model step 1 done")
'''

SEARCH = r"""
# demo-model step 2: search the texts for what the question names
quoted = re.findall(r"`([^`]+)`|\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)", question)
terms, flags = ["".join(groups) for groups in quoted], 0
if not terms:  # nothing in quotes: the two rarest long words of the question
    everything, flags = [text.lower() for _, text in texts], re.IGNORECASE
    counts = {word: sum(text.count(word) for text in everything) for word in re.findall(r"\w{4,}", question.lower())}
    terms = sorted((word for word in counts if counts[word]), key=lambda word: (counts[word], word))[:2]
pattern = re.compile("|".join(rf"(?<!\w){re.escape(term)}(?!\w)" for term in terms) or r"(?!)", flags)
hits, lines_of = [], {}
for where, text in texts:
    if pattern.search(text):
        lines_of[where] = text.split("\n")
        hits += [(where, n) for n, line in enumerate(lines_of[where], 1) if pattern.search(line)]
print(f"terms {terms}: {len(hits)} lines in {len(lines_of)} texts")
for where, n in hits[:5]:
    print(f"{where}:{n}: {lines_of[where][n - 1].strip()[:100]}")
print("demo-model step 2 done")
"""

ASK = r'''
# demo-model step 3: ask sub-models which of the lines count, and add up what they say
HOW = 'Reply with JSON only: {"yes": ["file:line", ...], "no": ["file:line", ...]}.'

def clip(line):
    """Cuts a long line around what was found in it."""
    found = pattern.search(line)
    middle = found.start() if found else 0
    return line if len(line) <= 300 else line[max(0, middle - 120) : middle + 180]

def excerpt(where, n):
    lines = lines_of[where]
    near = range(max(1, n - 2), min(len(lines), n + 2) + 1)
    return f"--- {where}:{n}\n" + "\n".join(f"{'>' if i == n else ' '} {i:6}| {clip(lines[i - 1])}" for i in near)

groups = {}
for where, n in hits:
    groups.setdefault(where.partition("/")[0] if "/" in where else "top level", []).append((where, n))
biggest = max(groups, key=lambda name: len(groups[name]), default=None)
handed = []
if not is_child and len(groups) > 1 and len(groups[biggest]) >= 10:  # its files go to a child with a REPL of its own
    handed = groups.pop(biggest)
asked = [hit for group in groups.values() for hit in group]
one_line = " ".join(question.split())
prompts = [
    f"Question: {one_line}\nTerms: {json.dumps(terms)}\nLines marked > hold a term. Which of them count towards "
    f"the answer? {HOW}\n" + "\n".join(excerpt(where, n) for where, n in asked[start : start + 12])
    for start in range(0, len(asked), 12)
]
print(f"{len(asked)} lines to sub-models in {len(prompts)} prompts, {len(handed)} lines of {biggest!r} to a child"
      if handed else f"{len(asked)} lines to sub-models in {len(prompts)} prompts")
replies = llm_query_batched(prompts) if prompts else []
if handed:
    documents = [{"id": where, "text": "\n".join(lines_of[where])} for where in dict(handed)]
    replies += rlm_query_batched([f"{question} {HOW}"], contexts=[documents])
replies = [reply if isinstance(reply, str) else repr(reply) for reply in replies]  # a failed one is no str

verdicts, unreadable = [], []
for reply in replies:
    try:
        verdicts.append(json.loads(reply))
    except ValueError:
        unreadable.append(reply)
best = max((verdict.get("score", 0) for verdict in verdicts), default=0)
by_line = lambda place: (place.rpartition(":")[0], int(place.rpartition(":")[2]))
read = lambda where, n: clip(lines_of[where][n - 1]).strip()
chosen = [verdict for verdict in verdicts if verdict.get("score", 0) == best]
yes = sorted({place for verdict in chosen for place in verdict["yes"]}, key=by_line)

if is_child:
    report = json.dumps({"yes": yes, "no": sorted({f"{where}:{n}" for where, n in hits} - set(yes)), "score": best})
else:
    found = {}
    for place in yes:
        found.setdefault(place.rpartition(":")[0], []).append(place.rpartition(":")[2])
    report = f"Lines that count: {len(yes)}, in {len(found)} files or texts:\n" + "\n".join(
        f"{where}: {', '.join(numbers)}" for where, numbers in found.items())
    if len(yes) <= 10:
        report += "\nThey read:\n" + "\n".join(f"{place}: {read(*by_line(place))}" for place in yes)
    report += f"\nOther lines that hold {' or '.join(terms) or 'its words'}: {len(hits) - len(yes)}."
    for reply in unreadable:
        report += f"\nA sub-call gave no verdict: {reply[:200]}"
    if pictures:
        seen = llm_query_batched([[question, picture] for _, picture in pictures])
        report += "".join(f"\nImage {where}: {reply}" for (where, _), reply in zip(pictures, seen))
    report += "\n(Answered by demo-model, a fixed program that stands in for a language model.)"
answer["content"] = report  # not ready yet, but better than nothing if time runs out
print(report[:1000])
print("demo-model step 3 done")
'''

ANSWER_OF_CHILD = """
# demo-model step 4: answer
answer["content"] = report
answer["ready"] = True
"""

ANSWER_TYPED = r'''
# demo-model step 4: fill the schema by the kind of each value
schema = json.loads(@SCHEMA@)

def fill(part, name="", place=None, depth=0):
    """Numbers count the lines found, texts are the report; in a list of objects they tell of one line each."""
    if "$ref" in part and depth < 8:
        target = schema
        for key in part["$ref"].split("/")[1:]:
            target = target[key]
        return fill(target, name, place, depth + 1)
    if "const" in part or "enum" in part:
        return part["const"] if "const" in part else part["enum"][0]
    choices = [one for one in part.get("anyOf") or part.get("oneOf") or [] if one.get("type") != "null"]
    if choices:
        return fill(choices[0], name, place, depth + 1)
    kind = part.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    where, _, number = (place or "").rpartition(":")
    if kind == "object":
        wanted = part.get("properties", {}) if depth < 8 else {}
        return {key: fill(one, key, place, depth + 1) for key, one in wanted.items()}
    if kind == "array":
        places = yes if depth < 8 and place is None else []
        return [fill(part.get("items", {"type": "string"}), name, one, depth + 1) for one in places]
    if kind in ("integer", "number"):
        return int(number) if place else len(yes)
    if kind in ("boolean", "null"):
        return bool(yes) if kind == "boolean" else None
    if place is None:
        return report
    return where if "file" in name or "path" in name else read(where, int(number)) if "text" in name else place

FINAL(fill(schema))
'''

GIVE_UP = """
# demo-model step 5: give up
answer["content"] = @MESSAGE@
answer["ready"] = True
"""
