"""RLM Server: recursive language models behind gRPC.

A model answers a query over a context that it never reads as a whole: the context is a variable in a sandboxed REPL,
and the model writes code that searches it and asks other models about pieces of it.

    engine       the loop, its prompts, budgets and events; knows neither gRPC nor sandboxes nor endpoints
    executors    run the code that models write: in a sandbox server, or in this process for development
    models       call OpenAI-compatible endpoints
    service      `rlm.v1.CompletionService`: checks requests, streams events
    cli          the `rlm` command
    demo_model   a fixed program that stands in for a language model
"""
