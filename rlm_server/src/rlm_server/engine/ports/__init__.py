"""What the engine needs from the outside, each port in a module of its own.

models      models that reply
executors   what makes sandboxes
sessions    sandboxes that run code
inputs      the variables that they are given
host_calls  the calls that their code makes
clock       a clock

ModelError             a call to a model failed for good
SandboxError           a sandbox broke
└── SandboxOpenError   a sandbox could not be had at all
HostCallError          an answer to a host call that raises in the sandbox
"""
