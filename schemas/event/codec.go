package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// A record is the format version (one byte) and then, for each column in the order of its table,
// the length of the value (unsigned varint) and the value. A zero value has length 0, zero values
// at the end are left out, and a reader skips what stands behind the columns it knows: an old
// reader reads new records and a new reader old ones.
//
// Values: text as it is; numbers as unsigned varints; floats as 4 or 8 bytes, little endian; times
// as signed varints of microseconds since 1970; durations as unsigned varints of microseconds;
// addresses as 4 or 16 bytes; lists and maps as length-prefixed items.

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed event record")

// placeColumns is the number of columns at the head of each table that the log's reader sets.
const placeColumns = 3

// Encode appends the record of e to buf and returns the longer buffer. Node, Incarnation and Seq
// are not part of it.
func Encode(buf []byte, e *Event) []byte { return encode(buf, Columns, e) }

// Decode reads a record into e, whose place it leaves as it is. Strings are copied: the record
// may be used again. It returns an error that wraps ErrMalformed for a record that is cut or
// broken, and never panics.
func Decode(record []byte, e *Event) error { return decode(record, Columns, e) }

// EncodeGauge appends the record of g to buf, as Encode does for an event.
func EncodeGauge(buf []byte, g *Gauge) []byte { return encode(buf, GaugeColumns, g) }

// DecodeGauge reads a record into g, as Decode does for an event.
func DecodeGauge(record []byte, g *Gauge) error { return decode(record, GaugeColumns, g) }

// EncodeAnnotation appends the record of a to buf, as Encode does for an event.
func EncodeAnnotation(buf []byte, a *Annotation) []byte { return encode(buf, AnnotationColumns, a) }

// DecodeAnnotation reads a record into a, as Decode does for an event.
func DecodeAnnotation(record []byte, a *Annotation) error {
	return decode(record, AnnotationColumns, a)
}

func encode[T any](buf []byte, columns []Column[T], v *T) []byte {
	buf = append(buf, FormatVersion)
	end := len(buf)
	for _, c := range columns[placeColumns:] {
		start := len(buf)
		buf = append(buf, 0) // most values are shorter than 128 bytes
		buf = appendValue(buf, c.field(v))
		n := len(buf) - start - 1
		if n >= 0x80 {
			var prefix [binary.MaxVarintLen64]byte
			buf = slices.Insert(buf, start+1, prefix[:binary.PutUvarint(prefix[:], uint64(n))-1]...)
			binary.PutUvarint(buf[start:], uint64(n))
		} else {
			buf[start] = byte(n)
		}
		if n > 0 {
			end = len(buf)
		}
	}
	return buf[:end]
}

func appendValue(buf []byte, field any) []byte {
	switch p := field.(type) {
	case *string:
		return append(buf, *p...)
	case *uint64:
		return appendNumber(buf, *p)
	case *uint32:
		return appendNumber(buf, uint64(*p))
	case *uint16:
		return appendNumber(buf, uint64(*p))
	case *uint8:
		return appendNumber(buf, uint64(*p))
	case *Kind:
		return appendNumber(buf, uint64(*p))
	case *Phase:
		return appendNumber(buf, uint64(*p))
	case *bool:
		if *p {
			return append(buf, 1)
		}
		return buf
	case *float32:
		if *p == 0 {
			return buf
		}
		return binary.LittleEndian.AppendUint32(buf, math.Float32bits(*p))
	case *float64:
		if *p == 0 {
			return buf
		}
		return binary.LittleEndian.AppendUint64(buf, math.Float64bits(*p))
	case *time.Time:
		if p.IsZero() {
			return buf
		}
		return binary.AppendVarint(buf, p.UnixMicro())
	case *time.Duration:
		return appendNumber(buf, uint64(max(0, p.Microseconds()))) //nolint:gosec // not negative
	case *netip.Addr:
		return append(buf, p.Unmap().AsSlice()...)
	case *ID:
		if *p == (ID{}) {
			return buf
		}
		return append(buf, p[:]...)
	case *[]string:
		for _, s := range *p {
			buf = appendItem(buf, s)
		}
		return buf
	case *map[string]string:
		keys := make([]string, 0, len(*p))
		for k := range *p {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			buf = appendItem(appendItem(buf, k), (*p)[k])
		}
		return buf
	default:
		panic(fmt.Sprintf("event: no encoding for %T", p)) // a mistake in the tables, found by every test
	}
}

func appendNumber(buf []byte, n uint64) []byte {
	if n == 0 {
		return buf
	}
	return binary.AppendUvarint(buf, n)
}

func appendItem(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

func decode[T any](record []byte, columns []Column[T], v *T) error {
	if len(record) == 0 || record[0] == 0 {
		return fmt.Errorf("%w: no format version", ErrMalformed)
	}
	rest := record[1:]
	for _, c := range columns[placeColumns:] {
		var value []byte
		if len(rest) > 0 {
			var ok bool
			if value, rest, ok = cutItem(rest); !ok {
				return fmt.Errorf("%w: column %s is cut", ErrMalformed, c.Name)
			}
		}
		if !setValue(c.field(v), value) {
			return fmt.Errorf("%w: column %s has a bad value of %d bytes", ErrMalformed, c.Name, len(value))
		}
	}
	return nil
}

func cutItem(buf []byte) (item, rest []byte, ok bool) {
	n, size := binary.Uvarint(buf)
	if size <= 0 || n > uint64(len(buf)-size) { //nolint:gosec // size is not more than len(buf)
		return nil, nil, false
	}
	return buf[size : size+int(n)], buf[size+int(n):], true //nolint:gosec // bounded by len(buf)
}

func number(value []byte, limit uint64) (uint64, bool) {
	if len(value) == 0 {
		return 0, true
	}
	n, size := binary.Uvarint(value)
	return n, size == len(value) && n <= limit
}

func setValue(field any, value []byte) bool {
	switch p := field.(type) {
	case *string:
		*p = string(value)
		return true
	case *uint64:
		return setNumber(p, value, math.MaxUint64)
	case *uint32:
		return setNumber(p, value, math.MaxUint32)
	case *uint16:
		return setNumber(p, value, math.MaxUint16)
	case *uint8:
		return setNumber(p, value, math.MaxUint8)
	case *Kind:
		return setNumber(p, value, uint64(len(kinds)-1))
	case *Phase:
		return setNumber(p, value, uint64(len(phases)-1))
	case *bool:
		*p = len(value) == 1 && value[0] == 1
		return len(value) == 0 || *p
	case *float32:
		*p = 0
		if len(value) == 4 {
			*p = math.Float32frombits(binary.LittleEndian.Uint32(value))
		}
		return len(value) == 0 || len(value) == 4
	case *float64:
		*p = 0
		if len(value) == 8 {
			*p = math.Float64frombits(binary.LittleEndian.Uint64(value))
		}
		return len(value) == 0 || len(value) == 8
	case *time.Time:
		*p = time.Time{}
		if len(value) == 0 {
			return true
		}
		us, size := binary.Varint(value)
		*p = time.UnixMicro(us).UTC()
		return size == len(value)
	case *time.Duration:
		n, ok := number(value, math.MaxInt64/1000)
		*p = time.Duration(n) * time.Microsecond //nolint:gosec // bounded above
		return ok
	case *netip.Addr:
		*p = netip.Addr{}
		if len(value) == 0 {
			return true
		}
		addr, ok := netip.AddrFromSlice(value)
		*p = addr
		return ok
	case *ID:
		*p = ID{}
		return copy(p[:], value) == len(value) && (len(value) == 0 || len(value) == len(p))
	case *[]string:
		*p = nil
		for len(value) > 0 {
			item, rest, ok := cutItem(value)
			if !ok {
				return false
			}
			*p, value = append(*p, string(item)), rest
		}
		return true
	case *map[string]string:
		return setMap(p, value)
	default:
		panic(fmt.Sprintf("event: no decoding for %T", p)) // a mistake in the tables, found by every test
	}
}

func setNumber[N ~uint8 | ~uint16 | ~uint32 | ~uint64](p *N, value []byte, limit uint64) bool {
	n, ok := number(value, limit)
	*p = N(n)
	return ok
}

func setMap(p *map[string]string, value []byte) bool {
	*p = nil
	for len(value) > 0 {
		key, rest, ok := cutItem(value)
		if !ok {
			return false
		}
		item, rest, ok := cutItem(rest)
		if !ok {
			return false
		}
		if *p == nil {
			*p = map[string]string{}
		}
		(*p)[string(key)], value = string(item), rest
	}
	return true
}
