"""Compares proto/onnx.proto with the schema of the installed onnx package.

    python3 tests/unit/check_onnx_proto.py ONNX_PROTO

Every message and field of the package must be in the text with the same number, type and label, and
the text must have no others. Enumerators of the text must have the package's numbers; the package
may have more, from later IR versions. Exit status 77 where there is no onnx package.
"""

import re
import sys

try:
    from onnx import onnx_ml_pb2
except ImportError:
    print("skipped: there is no Python package onnx")
    sys.exit(77)

SCALARS = "double float int64 uint64 int32 fixed64 fixed32 bool string - - bytes uint32".split()


def parse(text):
    """{"Message.field": (number, label, type)}, {"Enum.NAME": number}"""
    fields, enums, scope = {}, {}, []
    for line in text.splitlines():
        line = line.split("//")[0].strip()
        if m := re.fullmatch(r"(message|enum|oneof) (\w+) \{", line):
            scope.append(m.groups())
        elif line == "}":
            scope.pop()
        elif m := re.fullmatch(r"(\w+) = (\d+);", line):
            enums[".".join(n for _, n in scope) + "." + m[1]] = int(m[2])
        elif m := re.fullmatch(r"(?:(optional|repeated) )?([\w.]+) (\w+) = (\d+)(.*);", line):
            label, kind, name, number, rest = m.groups()
            if scope[-1][0] == "oneof":
                label = "oneof " + scope[-1][1]
            path = ".".join(n for k, n in scope if k == "message")
            fields[f"{path}.{name}"] = (int(number), label, kind, "packed" in rest)
        elif line and not line.startswith(("syntax", "package")):
            sys.exit(f"not understood: {line}")
    return fields, enums


def describe(field):
    if field.message_type:
        kind = field.message_type.name
    elif field.enum_type:
        kind = field.enum_type.name
    else:
        kind = SCALARS[field.type - 1]
    if field.containing_oneof:
        label = "oneof " + field.containing_oneof.name
    else:
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:
            repeated = field.label == field.LABEL_REPEATED
        label = "repeated" if repeated else "optional"
    return (field.number, label, kind, field.GetOptions().packed)


def collect(message, path, fields, enums):
    for field in message.fields:
        fields[f"{path}.{field.name}"] = describe(field)
    for enum in message.enum_types:
        enums.update({f"{path}.{enum.name}.{v.name}": v.number for v in enum.values})
    for inner in message.nested_types:
        collect(inner, f"{path}.{inner.name}", fields, enums)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        ours, our_enums = parse(file.read())
    theirs, their_enums = {}, {}
    for name, message in onnx_ml_pb2.DESCRIPTOR.message_types_by_name.items():
        collect(message, name, theirs, their_enums)
    for name, enum in onnx_ml_pb2.DESCRIPTOR.enum_types_by_name.items():
        their_enums.update({f"{name}.{v.name}": v.number for v in enum.values})
    wrong = [f"{n}: {ours.get(n)}, onnx has {theirs.get(n)}"
             for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
    wrong += [f"{n}: {v}, onnx has {their_enums.get(n)}"
              for n, v in our_enums.items() if their_enums.get(n) != v]
    print("\n".join(wrong) or f"{len(ours)} fields, {len(our_enums)} enumerators agree")
    return bool(wrong) or len(ours) < 100


if __name__ == "__main__":
    sys.exit(main())
