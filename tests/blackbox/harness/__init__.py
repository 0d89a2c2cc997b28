"""Parts of the black-box tests that are not tests: they start the real server and speak to it as its users do.

    server.py     one `waterwheel serve` process: start, stop, kill, start again on the same data
    wire.py       signed HTTP requests, byte by byte, for what boto3 would not send or would not show
    functions.py  packages, and functions that are ready to be invoked
    following.py  `waterwheel logs -f`: how a test learns what a function is doing
    aws_cli.py    the real AWS CLI in an environment with nothing of the user's in it
    leftovers.py  what a server has on the host (processes, mounts, cgroups, files), to see that it goes away
    scan.py       looking for canaries in every byte below a directory
    emulator.py   a server that speaks as AWS does: queues, topics, buses and buckets to deliver to
    queues.py     queues that answer as SQS does, and refuse, fail or hang when they are told to
    otlp.py       a receiver for exported traces

Nothing here knows how the server works inside; it is bound to the command line, the HTTP API and the host only.
"""
