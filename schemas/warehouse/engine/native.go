//go:build unix

package engine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// nativeReadAhead is the reader's buffer, as large as ch-go's own, which then uses this one.
const nativeReadAhead = 128 << 10

// recodeNative writes the blocks of part, which the engine formats for protocol revision 0, as
// the client's revision wants them: a block info before each block, and behind the type of each
// column whether its serialization is a custom one, which it never is. The data of the columns is
// copied as it is; decoding them is how their ends are found.
func recodeNative(w io.Writer, part []byte, revision uint64) error {
	if revision == 0 {
		_, err := w.Write(part)
		return err
	}
	source := bytes.NewReader(part)
	ahead := bufio.NewReaderSize(source, nativeReadAhead)
	reader := chproto.NewReader(ahead)
	at := func() int { return len(part) - source.Len() - ahead.Buffered() }
	server := &column.ServerContext{Timezone: time.UTC}
	var head chproto.Buffer
	for {
		columns, err := reader.UVarInt()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read block: %w", err)
		}
		rows, err := reader.UVarInt()
		if err != nil {
			return fmt.Errorf("read block: %w", err)
		}
		head.Reset()
		// Block info: field 1 (is_overflows) = false, field 2 (bucket_num) = -1, end.
		head.PutUVarInt(1)
		head.PutBool(false)
		head.PutUVarInt(2)
		head.PutInt32(-1)
		head.PutUVarInt(0)
		head.PutUVarInt(columns)
		head.PutUVarInt(rows)
		for range columns {
			name, err := reader.Str()
			if err != nil {
				return fmt.Errorf("read block: %w", err)
			}
			typeName, err := reader.Str()
			if err != nil {
				return fmt.Errorf("read block: %w", err)
			}
			head.PutString(name)
			head.PutString(typeName)
			if revision >= proto.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION {
				head.PutBool(false)
			}
			if _, err := w.Write(head.Buf); err != nil {
				return err
			}
			head.Reset()
			start := at()
			if err := skipColumn(reader, ahead, name, typeName, int(rows), server); err != nil {
				return exception(notImplemented, fmt.Sprintf(
					"Column %s of type %s cannot be sent in FORMAT Native with client_protocol_version: %v", name, typeName, err,
				))
			}
			if _, err := w.Write(part[start:at()]); err != nil {
				return err
			}
		}
		if _, err := w.Write(head.Buf); err != nil { // a block without columns
			return err
		}
	}
}

// skipColumn reads over the data of one column. ahead is the buffer that reader reads from.
func skipColumn(reader *chproto.Reader, ahead *bufio.Reader, name, typeName string, rows int, server *column.ServerContext) error {
	if rows == 0 {
		return nil
	}
	plain := typeName
	if inner, ok := strings.CutPrefix(typeName, "Nullable("); ok {
		plain = strings.TrimSuffix(inner, ")")
	}
	width, fixed := widthOf(plain)
	if !fixed && plain != "String" {
		return decodeColumn(reader, name, typeName, rows, server)
	}
	if plain != typeName {
		if _, err := ahead.Discard(rows); err != nil { // one byte a row: is it NULL?
			return err
		}
	}
	if fixed {
		_, err := ahead.Discard(rows * width)
		return err
	}
	for range rows {
		length, err := binary.ReadUvarint(ahead)
		if err != nil {
			return err
		}
		if _, err := ahead.Discard(int(length)); err != nil {
			return err
		}
	}
	return nil
}

var widths = map[string]int{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"Bool": 1, "Float32": 4, "Float64": 8, "Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8,
	"Enum8": 1, "Enum16": 2, "IPv4": 4, "IPv6": 16, "UUID": 16,
}

// widthOf returns how many bytes a value of a type takes, if that is the same for all.
func widthOf(typeName string) (width int, fixed bool) {
	base, _, _ := strings.Cut(typeName, "(")
	width, fixed = widths[base]
	return width, fixed
}

// decodeColumn reads over a column of a type whose length only decoding it tells.
func decodeColumn(reader *chproto.Reader, name, typeName string, rows int, server *column.ServerContext) error {
	c, err := column.Type(typeName).Column(name, server)
	if err != nil {
		return err
	}
	if custom, ok := c.(column.CustomSerialization); ok {
		if err := custom.ReadStatePrefix(reader); err != nil {
			return err
		}
	}
	return c.Decode(reader, rows)
}
