"""TFRecord files and ``tf.train.Example`` messages, read without TensorFlow.

The format is small and frozen: a record is its length (u64), a masked CRC-32C of the length, the bytes, and a masked
CRC-32C of the bytes; an Example is a protobuf map from a name to one of three lists.

Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

Feature = list[bytes] | list[float] | list[int]


class TFRecordError(ValueError):
    """A damaged TFRecord file; the message names the file and the record."""


def read_records(path: str | Path) -> Iterator[bytes]:
    """Yields the payloads of a TFRecord file, GZIP or plain, after verifying both checksums.

    Raises:
      TFRecordError: the file ends inside a record, or a checksum does not match.
      FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    number = 0
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        try:
            while header := file.read(12):
                if len(header) < 12:
                    raise TFRecordError(f"{path}: record {number} is truncated; copy the file again.")
                length, length_crc = struct.unpack("<QI", header)
                if _masked_crc(header[:8]) != length_crc:
                    raise TFRecordError(
                        f"{path}: record {number}: the length's checksum differs; copy the file again."
                    )
                payload, footer = file.read(length), file.read(4)
                if len(payload) < length or len(footer) < 4:
                    raise TFRecordError(f"{path}: record {number} is truncated; copy the file again.")
                if _masked_crc(payload) != struct.unpack("<I", footer)[0]:
                    raise TFRecordError(
                        f"{path}: record {number}: the checksum differs; copy the file again."
                    )
                yield payload
                number += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise TFRecordError(
                f"{path}: record {number} is truncated ({error}); copy the file again."
            ) from None


def parse_example(payload: bytes) -> dict[str, Feature]:
    """The features of one ``tf.train.Example``, by name.

    Raises:
      ValueError: the bytes are not an Example.
    """
    features: dict[str, Feature] = {}
    for field, block in wire_fields(memoryview(payload)):
        if field != 1:  # Example.features
            continue
        for entry_field, entry in wire_fields(_bytes(block)):
            if entry_field != 1:  # Features.feature, a map entry
                continue
            name, value = "", memoryview(b"")
            for part, content in wire_fields(_bytes(entry)):
                if part == 1:
                    name = bytes(_bytes(content)).decode()
                elif part == 2:
                    value = _bytes(content)
            features[name] = _feature(value)
    return features


def _feature(block: memoryview) -> Feature:
    for kind, content in wire_fields(block):
        values = list(wire_fields(_bytes(content)))
        if kind == 1:  # BytesList
            return [bytes(_bytes(value)) for _, value in values]
        if kind == 2:  # FloatList, packed or not
            packed = b"".join(bytes(_bytes(value)) for _, value in values)
            if len(packed) % 4:
                raise ValueError(f"a float list of {len(packed)} bytes, which is not a multiple of 4")
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        if kind == 3:  # Int64List, packed or not
            numbers: list[int] = []
            for _, value in values:
                numbers += [value] if isinstance(value, int) else _varints(value)
            return [n - (1 << 64) if n >> 63 else n for n in numbers]
    return []


def wire_fields(block: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Fields in the protobuf wire format: (field number, bytes or varint); fixed-width values come as bytes."""
    position = 0
    while position < len(block):
        tag, position = _varint(block, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(block, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, position = _varint(block, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown protobuf wire type {wire}")
        if position + size > len(block):
            raise ValueError("protobuf message is truncated")
        yield tag >> 3, block[position : position + size]
        position += size


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("protobuf field holds a number where bytes are expected")
    return value


def _varint(block: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(block) and shift < 70:
        byte = block[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ValueError("protobuf varint is truncated")


def _varints(block: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(block):
        number, position = _varint(block, position)
        numbers.append(number)
    return numbers


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
