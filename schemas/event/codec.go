package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
	"unsafe"
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

var (
	eventFields      = fieldsOf(Columns)
	gaugeFields      = fieldsOf(GaugeColumns)
	queueGaugeFields = fieldsOf(QueueGaugeColumns)
	annotationFields = fieldsOf(AnnotationColumns)
)

// Encode appends the record of e to buf and returns the longer buffer. Node, Incarnation and Seq
// are not part of it.
func Encode(buf []byte, e *Event) []byte { return encode(buf, eventFields, e) }

// Decode reads a record into e, whose place it leaves as it is. Strings are copied: the record
// may be used again. It returns an error that wraps ErrMalformed for a record that is cut or
// broken, and never panics.
func Decode(record []byte, e *Event) error { return decode(record, Columns, e) }

// EncodeGauge appends the record of g to buf, as Encode does for an event.
func EncodeGauge(buf []byte, g *Gauge) []byte { return encode(buf, gaugeFields, g) }

// DecodeGauge reads a record into g, as Decode does for an event.
func DecodeGauge(record []byte, g *Gauge) error { return decode(record, GaugeColumns, g) }

// EncodeQueueGauge appends the record of g to buf, as Encode does for an event.
func EncodeQueueGauge(buf []byte, g *QueueGauge) []byte { return encode(buf, queueGaugeFields, g) }

// DecodeQueueGauge reads a record into g, as Decode does for an event.
func DecodeQueueGauge(record []byte, g *QueueGauge) error {
	return decode(record, QueueGaugeColumns, g)
}

// EncodeAnnotation appends the record of a to buf, as Encode does for an event.
func EncodeAnnotation(buf []byte, a *Annotation) []byte { return encode(buf, annotationFields, a) }

// DecodeAnnotation reads a record into a, as Decode does for an event.
func DecodeAnnotation(record []byte, a *Annotation) error {
	return decode(record, AnnotationColumns, a)
}

func encode[T any](buf []byte, fields []field, v *T) []byte {
	buf = append(buf, FormatVersion)
	end := len(buf)
	for _, f := range fields {
		start := len(buf)
		buf = append(buf, 0) // most values are shorter than 128 bytes
		buf = f.append(buf, unsafe.Add(unsafe.Pointer(v), f.offset))
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

// field is where the encoder finds a column's value in a T, and what type it has. A record has some
// eighty columns of which most are empty: asking each for a pointer in an interface took three
// quarters of the time.
type field struct {
	offset uintptr
	kind   fieldKind
}

type fieldKind uint8

const (
	textField fieldKind = iota
	uint64Field
	uint32Field
	uint16Field
	uint8Field
	boolField
	float32Field
	float64Field
	timeField
	durationField
	addrField
	idField
	listField
	mapField
)

// fieldsOf returns the fields behind the columns that are encoded.
func fieldsOf[T any](columns []Column[T]) []field {
	var v T
	fields := make([]field, 0, len(columns))
	for _, c := range columns[placeColumns:] {
		p := c.field(&v)
		kind, at := kindOf(p)
		if at == nil {
			panic(fmt.Sprintf("event: no encoding for %T", p)) // a mistake in the tables, found by every test
		}
		fields = append(fields, field{uintptr(at) - uintptr(unsafe.Pointer(&v)), kind})
	}
	return fields
}

func kindOf(p any) (fieldKind, unsafe.Pointer) {
	switch p := p.(type) {
	case *string:
		return textField, unsafe.Pointer(p)
	case *uint64:
		return uint64Field, unsafe.Pointer(p)
	case *uint32:
		return uint32Field, unsafe.Pointer(p)
	case *uint16:
		return uint16Field, unsafe.Pointer(p)
	case *uint8:
		return uint8Field, unsafe.Pointer(p)
	case *Kind:
		return uint8Field, unsafe.Pointer(p)
	case *Phase:
		return uint8Field, unsafe.Pointer(p)
	case *bool:
		return boolField, unsafe.Pointer(p)
	case *float32:
		return float32Field, unsafe.Pointer(p)
	case *float64:
		return float64Field, unsafe.Pointer(p)
	case *time.Time:
		return timeField, unsafe.Pointer(p)
	case *time.Duration:
		return durationField, unsafe.Pointer(p)
	case *netip.Addr:
		return addrField, unsafe.Pointer(p)
	case *ID:
		return idField, unsafe.Pointer(p)
	case *[]string:
		return listField, unsafe.Pointer(p)
	case *map[string]string:
		return mapField, unsafe.Pointer(p)
	default:
		return 0, nil
	}
}

// append appends the value at p, which points to a field of f's kind.
func (f field) append(buf []byte, p unsafe.Pointer) []byte {
	switch f.kind {
	case textField:
		return append(buf, *(*string)(p)...)
	case uint64Field:
		return appendNumber(buf, *(*uint64)(p))
	case uint32Field:
		return appendNumber(buf, uint64(*(*uint32)(p)))
	case uint16Field:
		return appendNumber(buf, uint64(*(*uint16)(p)))
	case uint8Field:
		return appendNumber(buf, uint64(*(*uint8)(p)))
	case boolField:
		if *(*bool)(p) {
			return append(buf, 1)
		}
	case float32Field:
		if n := *(*float32)(p); n != 0 {
			return binary.LittleEndian.AppendUint32(buf, math.Float32bits(n))
		}
	case float64Field:
		if n := *(*float64)(p); n != 0 {
			return binary.LittleEndian.AppendUint64(buf, math.Float64bits(n))
		}
	case timeField:
		if t := (*time.Time)(p); !t.IsZero() {
			return binary.AppendVarint(buf, t.UnixMicro())
		}
	case durationField:
		return appendNumber(buf, uint64(max(0, (*time.Duration)(p).Microseconds()))) //nolint:gosec // not negative
	case addrField:
		return appendAddr(buf, *(*netip.Addr)(p))
	case idField:
		if id := (*ID)(p); *id != (ID{}) {
			return append(buf, id[:]...)
		}
	case listField:
		for _, s := range *(*[]string)(p) {
			buf = appendItem(buf, s)
		}
	case mapField:
		return appendMap(buf, *(*map[string]string)(p))
	}
	return buf
}

func appendAddr(buf []byte, addr netip.Addr) []byte {
	addr = addr.Unmap()
	switch {
	case addr.Is4():
		a := addr.As4()
		return append(buf, a[:]...)
	case addr.Is6():
		a := addr.As16()
		return append(buf, a[:]...)
	default:
		return buf
	}
}

func appendMap(buf []byte, m map[string]string) []byte {
	if len(m) == 1 { // as usual
		for k, v := range m {
			buf = appendItem(appendItem(buf, k), v)
		}
		return buf
	}
	keys := make([]string, 0, 8)
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		buf = appendItem(appendItem(buf, k), m[k])
	}
	return buf
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
