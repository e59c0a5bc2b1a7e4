"""Runs one user function over Arrow batches, in a process of its own.

Frames on stdin and stdout are a little-endian u64 length and that many bytes; an answer has one byte before its length:
0 for a result, 1 for a failure whose bytes are the words to show. The first two frames are a JSON object
{"name", "source"} and an Arrow IPC stream whose only field has the type to return; each later frame is an Arrow IPC
stream of one batch of arguments, answered by an IPC stream of one column.
"""

import json
import os
import struct
import sys
import traceback

requests = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
# What the function prints must not get between the frames.
os.dup2(2, 1)
sys.stdout = sys.stderr


def read_frame():
    header = requests.read(8)
    if len(header) < 8:
        sys.exit(0)
    (length,) = struct.unpack("<Q", header)
    return requests.read(length)


def answer(status, payload):
    answers.write(struct.pack("<BQ", status, len(payload)))
    answers.write(payload)
    answers.flush()


def user_traceback(name):
    """The traceback without the frames of this file."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
        trace = trace.tb_next
    return "".join(traceback.format_exception(kind, error, trace))


def load(spec):
    import linecache

    file_name = "<function %s>" % spec["name"]
    source = spec["source"]
    linecache.cache[file_name] = (len(source), None, source.splitlines(True), file_name)
    scope = {"__name__": "corpusmill_function"}
    exec(compile(source, file_name, "exec"), scope)
    function = scope.get(spec["name"])
    if not callable(function):
        raise NameError(
            "the body defines no function '%s'; write def %s(…):" % (spec["name"], spec["name"])
        )
    return function


def to_column(pa, result, expected, rows):
    if isinstance(result, pa.ChunkedArray):
        result = result.combine_chunks()
        if isinstance(result, pa.ChunkedArray):
            result = pa.concat_arrays(result.chunks)
    if not isinstance(result, pa.Array):
        if isinstance(result, (str, bytes)) or not hasattr(result, "__len__"):
            raise TypeError(
                "returned one value of type %s, expected an array of %d rows"
                % (type(result).__name__, rows)
            )
        result = pa.array(result, type=expected)
    if len(result) != rows:
        raise ValueError("returned %d rows, expected %d" % (len(result), rows))
    if result.type != expected:
        try:
            result = result.cast(expected)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TypeError("returned %s, expected %s: %s" % (result.type, expected, error)) from None
    return result


def main():
    spec = json.loads(read_frame())
    schema_frame = read_frame()
    try:
        import pyarrow as pa
        import pyarrow.ipc

        expected = pa.ipc.open_stream(schema_frame).schema.field(0).type
        function = load(spec)
    except BaseException:
        answer(1, user_traceback(spec["name"]).encode())
        return
    answer(0, b"")
    while True:
        frame = read_frame()
        try:
            table = pa.ipc.open_stream(frame).read_all().combine_chunks()
            columns = [
                column.chunk(0) if column.num_chunks else pa.array([], column.type)
                for column in table.columns
            ]
            result = to_column(pa, function(*columns), expected, table.num_rows)
            sink = pa.BufferOutputStream()
            batch = pa.record_batch([result], names=["result"])
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            answer(0, sink.getvalue().to_pybytes())
        except Exception:
            answer(1, user_traceback(spec["name"]).encode())


main()
