"""Host functions with a JSON Schema: functions with parameters, defaults, annotations and checked arguments."""

import inspect

import fastjsonschema

_ANNOTATIONS = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": None,
}


def make_checker(name, schema):
    """Returns a function that turns a call's arguments into arguments by name, and the signature to show.

    Args:
        name: what errors call the function.
        schema: JSON Schema of an object, whose properties are the parameters in order.

    Raises:
        fastjsonschema.JsonSchemaDefinitionException: the schema is none.
    """
    validate = fastjsonschema.compile(schema, handlers=dict.fromkeys(("http", "https", "ftp"), _refuse_remote))
    signature = _signature(schema)

    def check(args, kwargs):
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        arguments = {}
        for parameter, value in bound.arguments.items():
            if signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(value)
            else:
                arguments[parameter] = value
        try:
            return validate(arguments)
        except fastjsonschema.JsonSchemaValueException as error:
            raise TypeError(f"{name}(): {error.message.removeprefix('data.')}") from None

    return check, signature


def _signature(schema):
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    parameters = [
        inspect.Parameter(
            parameter,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if parameter in required else properties[parameter].get("default"),
            annotation=_annotation(properties[parameter]),
        )
        for parameter in sorted(properties, key=lambda parameter: parameter not in required)
    ]
    if schema.get("additionalProperties"):
        parameters.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _annotation(schema):
    kind = schema.get("type")
    return _ANNOTATIONS.get(kind, inspect.Parameter.empty) if isinstance(kind, str) else inspect.Parameter.empty


def _refuse_remote(uri):
    raise ValueError(f"a schema can refer to itself only, not to {uri}")
