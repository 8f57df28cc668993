"""Calls from code in the sandbox to functions that the client serves."""

import asyncio
import json

import typed_functions
import wit_world

awaited = {}
"""Call id to the asyncio future that is done when the call is answered, of calls that coroutines wait for."""

_FOREVER_NS = (1 << 64) - 1

before_crossing = []
"""Functions that run before each call, as flushing output so that it is seen in order."""


class HostCallError(Exception):
    """A host call failed.

    Attributes:
        type: an identifier that tells errors apart.
        message: text for people.
    """

    def __init__(self, type, message):
        super().__init__(message)
        self.type = type
        self.message = message


class HostCall:
    """A call that is under way."""

    _arrived = {}  # call id to answer, of calls that were not asked for theirs yet

    def __init__(self, call_id):
        self._id = call_id
        self._answer = None

    def done(self):
        """Tells whether the answer is here. Does not wait."""
        if not self._has_arrived():
            receive([self._id], 0)
        return self._has_arrived()

    def result(self):
        """Waits for the answer and returns it.

        Raises:
            HostCallError: the call failed.
        """
        while not self._has_arrived():
            receive([self._id])
        error = self._answer.get("error")
        if error is not None:
            raise HostCallError(error["type"], error["message"])
        return self._answer["value"]

    def __await__(self):
        if not self._has_arrived():
            future = awaited[self._id] = asyncio.get_running_loop().create_future()
            try:
                yield from future
            finally:
                awaited.pop(self._id, None)
        return self.result()

    def _has_arrived(self):
        """Tells whether an earlier wait has brought the answer."""
        if self._answer is None:
            self._answer = self._arrived.pop(self._id, None)
        return self._answer is not None


def wait_any(calls):
    """Waits until at least one of the calls is answered; returns those that are, in the order given."""
    calls = list(calls)
    if calls and not any(call._has_arrived() for call in calls):
        receive([call._id for call in calls])
    return [call for call in calls if call._has_arrived()]


def host_submit(function, /, *args, **kwargs):
    """Begins a call of a host function and returns a `HostCall`.

    Raises:
        TypeError: an argument cannot be expressed as JSON.
    """
    arguments = _dump({"args": args, "kwargs": kwargs}, function)
    for action in before_crossing:
        action()
    return HostCall(wit_world.call_start(function, arguments))


def host_call(function, /, *args, **kwargs):
    """Calls a host function and waits for what it returns.

    Raises:
        HostCallError: the call failed.
        TypeError: an argument cannot be expressed as JSON.
    """
    return host_submit(function, *args, **kwargs).result()


def make_function(name, doc, schema=None):
    """Returns an ordinary function that calls the host function of that name.

    With a schema for its arguments, they are checked before the call, and the call has them all by name.
    """
    if schema is None:

        def function(*args, **kwargs):
            return host_call(name, *args, **kwargs)

    else:
        check, signature = typed_functions.make_checker(name, schema)

        def function(*args, **kwargs):
            return host_call(name, **check(args, kwargs))

        function.__signature__ = signature
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = "__main__"
    return function


def receive(call_ids, timeout=None):
    """Waits until one of the calls is answered, or for so many seconds, and takes the answer in."""
    for action in before_crossing:
        action()
    timeout_ns = _FOREVER_NS if timeout is None else max(0, int(timeout * 1e9))
    text = wit_world.call_wait(",".join(map(str, call_ids)), timeout_ns)
    if not text:
        return
    answer = json.loads(text)
    HostCall._arrived[answer["id"]] = answer
    future = awaited.get(answer["id"])
    if future is not None and not future.done():
        future.set_result(None)


def _dump(arguments, function):
    try:
        text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments, separators=(",", ":"))  # lone surrogates, which only escapes can carry
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}() takes only what JSON can express: {error}") from None
    return text
