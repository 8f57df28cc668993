"""The loop of recursive language models. It knows neither gRPC nor wasmtime nor any model library: see `ports`.

`completion` runs the tree of nodes below a query, `loop` one node of it. What they are made of:

ports          what the engine needs from the outside
messages       what a node and its model say to each other
replies        what models reply, read
answers        which answers are taken
repl           what a node's sandbox is given, how its blocks run, what they can call
subcalls       what code asks of models and of child RLMs
budgets        what a completion may use and has used
conversations  completions that follow each other
schemas        JSON Schemas of what clients give
prompts        the texts that models are given
"""
