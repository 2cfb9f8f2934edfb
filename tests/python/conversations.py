"""Conversations as pyarrow writes and reads them in Parquet, and as transformers renders them."""

import datetime
import decimal
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq

task, source, target = sys.argv[1:]


def render():
    """Each line's text and the spans of its generation blocks, in characters."""
    from transformers.utils.chat_template_utils import render_jinja_template

    with open(target, "w", encoding="utf-8") as out:
        for line in open(source, encoding="utf-8"):
            case = json.loads(line)
            texts, spans = render_jinja_template(
                conversations=[case["messages"]],
                tools=case.get("tools"),
                chat_template=case["template"],
                return_assistant_tokens_mask=True,
                **case.get("chat_template_kwargs", {}),
            )
            out.write(json.dumps({"text": texts[0], "spans": spans[0]}) + "\n")


def nested():
    """The rows as they are, in columns whose types pyarrow finds."""
    rows = [json.loads(line) for line in open(source, encoding="utf-8")]
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), target)


def text(large):
    return pa.large_string() if large else pa.string()


def write():
    talks = [json.loads(line)["messages"] for line in open(source, encoding="utf-8", newline="\n")]
    string = text(task == "large")
    message = pa.struct([("content", string), ("role", string)])
    rows = range(len(talks))
    columns = {
        "conversation_id": pa.array([f"id{row}" for row in rows]),
        "model": pa.array([f"model{row % 3}" for row in rows]).dictionary_encode(),
        "conversation": pa.array(talks, pa.large_list(message) if task == "large" else pa.list_(message)),
        "turn": pa.array([row if row % 5 else None for row in rows], pa.int64()),
        "moderation": pa.array(
            [[{"scores": {"a": row / 3, "b": None}, "flagged": row % 2 == 0}] * (row % 3) for row in rows],
            pa.list_(pa.struct([("scores", pa.struct([("a", pa.float64()), ("b", pa.float64())])), ("flagged", pa.bool_())])),
        ),
        "redacted": pa.array([None if row % 7 == 0 else row % 2 == 0 for row in rows]),
        "deep": pa.array([[[row, None], [], None][: row % 4] for row in rows], pa.list_(pa.list_(pa.int16()))),
        "map": pa.array([[("k", row)] * (row % 2) for row in rows], pa.map_(pa.string(), pa.int32())),
        "time": pa.array([datetime.datetime(2024, 1, 1) + datetime.timedelta(seconds=row) for row in rows], pa.timestamp("us", "UTC")),
        "price": pa.array([decimal.Decimal(row) / 100 for row in rows], pa.decimal128(30, 2)),
        "half": pa.array([None] * len(talks), pa.float16()),
        "nothing": pa.array([None] * len(talks), pa.null()),
        "binary": pa.array([bytes([row % 256, 255]) for row in rows]),
    }
    compression = task if task in ("snappy", "zstd", "gzip", "lz4") else "snappy"
    pq.write_table(
        pa.table(columns),
        target,
        compression=compression,
        row_group_size=len(talks) if task == "one-group" else 300,
        use_dictionary=task == "dictionary",
        data_page_version="2.0" if task == "v2" else "1.0",
        data_page_size=20_000,
    )


def check():
    before, after = pq.read_table(source), pq.read_table(target)
    keep = [row for row in range(before.num_rows) if (row + 1) % 3 != 0]
    assert after.column_names == before.column_names + ["proj", "why"], after.column_names
    for name in before.column_names:
        assert after[name].to_pylist() == before[name].take(keep).to_pylist(), name
    assert after["proj"].to_pylist() == [row + 1.0 for row in keep]
    assert after["why"].to_pylist() == [None if (row + 1) % 2 == 0 else str(row + 1) for row in keep]
    assert after["why"].type == pa.string() and after["proj"].type == pa.float64()


{"check": check, "render": render, "nested": nested}.get(task, write)()
