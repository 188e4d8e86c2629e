package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// ErrUnfit is wrapped by the error of Block.Append for a value that the type of its column does
// not have: a word or number that an enumeration lacks, a time outside of ClickHouse's.
var ErrUnfit = errors.New("value does not fit its column")

// The span of ClickHouse's DateTime64, in microseconds since 1970.
var (
	firstTime = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	lastTime  = time.Date(2299, 12, 31, 23, 59, 59, 0, time.UTC).UnixMicro()

	noTime = time.Time{}.UnixMicro() // which is stored as 1970
)

// Block gathers rows by column, each column as ClickHouse's Native format has it: going through the
// rows again to sort their values into columns took two thirds of the time of an insert. Its memory
// is used again after Reset. A Block has one owner at a time.
type Block[T any] struct {
	columns []blockColumn
	rows    int
	native  []byte // what Native returned last, if it was put together
}

// NewBlock returns an empty block of columns, which are one of the tables of this package.
func NewBlock[T any](columns []Column[T]) *Block[T] {
	var v T
	b := &Block[T]{columns: make([]blockColumn, len(columns))}
	for i, c := range columns {
		kind, at := kindOf(c.field(&v))
		f := field{uintptr(at) - uintptr(unsafe.Pointer(&v)), kind}
		if at == nil || !b.columns[i].set(c.Name, c.Type, f) {
			panic(fmt.Sprintf("event: no block for column %s of type %s", c.Name, c.Type)) // a mistake in the tables, found by every test
		}
	}
	return b
}

// Len returns the number of rows.
func (b *Block[T]) Len() int { return b.rows }

// Reset takes all rows out.
func (b *Block[T]) Reset() {
	b.rows = 0
	for i := range b.columns {
		b.columns[i].reset()
	}
}

// Append adds a row with the values of v, its place included. The error wraps ErrUnfit; the block
// is then as before.
func (b *Block[T]) Append(v *T) error {
	for i := range b.columns {
		c := &b.columns[i]
		if !c.appendField(unsafe.Add(unsafe.Pointer(v), c.offset)) {
			b.undo(i)
			return fmt.Errorf("column %s: %w", c.name, ErrUnfit)
		}
	}
	b.rows++
	return nil
}

// AppendRecord adds a row with the values of a record from the log of node, whose life is
// incarnation, at number seq. It takes what Decode and then Append take, and does not keep record. The
// error wraps ErrMalformed; the block is then as before.
func (b *Block[T]) AppendRecord(node string, incarnation ID, seq uint64, record []byte) error {
	if len(record) == 0 || record[0] == 0 {
		return fmt.Errorf("%w: no format version", ErrMalformed)
	}
	rest := record[1:]
	b.columns[0].appendValue(bytesOf(node))
	b.columns[1].appendID(incarnation[:])
	b.columns[2].appendNumber(seq)
	for i := placeColumns; i < len(b.columns); i++ {
		c := &b.columns[i]
		var value []byte
		if len(rest) > 0 {
			if n := int(rest[0]); n < 0x80 && n < len(rest) { // most values are shorter than 128 bytes
				value, rest = rest[1:1+n], rest[1+n:]
			} else {
				var ok bool
				if value, rest, ok = cutItem(rest); !ok {
					b.undo(i - 1)
					return fmt.Errorf("%w: column %s is cut", ErrMalformed, c.name)
				}
			}
		}
		if !c.appendValue(value) {
			b.undo(i)
			return fmt.Errorf("%w: column %s has a bad value of %d bytes", ErrMalformed, c.name, len(value))
		}
	}
	b.rows++
	return nil
}

// undo takes the row back that the columns up to last have already.
func (b *Block[T]) undo(last int) {
	for i := range last + 1 {
		b.columns[i].undo(b.rows)
	}
}

// SetTimes gives the column name, of times, the value of t in every row.
func (b *Block[T]) SetTimes(name string, t time.Time) {
	i := slices.IndexFunc(b.columns, func(c blockColumn) bool { return c.name == name })
	b.columns[i].reset()
	for range b.rows {
		b.columns[i].appendTime(t.UnixMicro())
	}
}

// Select returns a block of the rows for which keep holds. It is for the rare case: it copies.
func (b *Block[T]) Select(keep func(row int) bool) *Block[T] {
	s := &Block[T]{columns: make([]blockColumn, len(b.columns))}
	for row := range b.rows {
		if keep(row) {
			s.rows++
		}
	}
	for i := range b.columns {
		s.columns[i] = b.columns[i].selected(b.rows, keep)
	}
	return s
}

// selected returns a column of those of the first rows for which keep holds.
func (c *blockColumn) selected(rows int, keep func(row int) bool) blockColumn {
	s := *c
	s.data, s.keys, s.items = nil, nil, nil
	if c.form == formLow {
		s.dictionary, s.words = map[string]uint32{}, nil
		s.reset()
	}
	s.count = 0
	kept := make([]bool, c.count) // items of formList
	rest, begin := c.data, uint64(0)
	for row := range rows {
		isKept := keep(row)
		switch c.form {
		case formFixed, formEnum:
			if isKept {
				s.data = append(s.data, c.data[row*c.width:(row+1)*c.width]...)
			}
		case formText:
			n, size := binary.Uvarint(rest)
			end := size + int(n) //nolint:gosec // it is in memory
			if isKept {
				s.data = append(s.data, rest[:end]...)
			}
			rest = rest[end:]
		case formLow:
			if isKept {
				s.keys = append(s.keys, s.key(bytesOf(c.word(c.keys[row]))))
			}
		case formList:
			end := binary.LittleEndian.Uint64(c.data[row*8:])
			for i := begin; isKept && i < end; i++ {
				kept[i] = true
				s.count++
			}
			begin = end
			if isKept {
				s.data = binary.LittleEndian.AppendUint64(s.data, s.count)
			}
		}
	}
	for _, item := range c.items {
		of := item.selected(len(kept), func(i int) bool { return kept[i] })
		s.items = append(s.items, &of)
	}
	return s
}

// word returns the text of a key of formLow.
func (c *blockColumn) word(key uint32) string {
	if key == 0 {
		return ""
	}
	return c.words[key-1]
}

// Native returns the values of column i, without name, type and prefix of the serialization. It is
// valid until the next call of the Block.
func (b *Block[T]) Native(i int) []byte {
	if c := &b.columns[i]; c.form != formLow && c.form != formList {
		return c.data
	}
	b.native = b.columns[i].native(b.native[:0])
	return b.native
}

// form is how a column lies in a block.
type form uint8

const (
	formFixed form = iota // numbers and all else that has one width
	formText              // length-prefixed
	formLow               // keys into a dictionary
	formEnum              // one byte
	formList              // ends of the lists, and their items in columns of their own
)

// blockColumn is one column of a block.
type blockColumn struct {
	field
	name  string
	form  form
	width int // of formFixed and formEnum

	data []byte // the values; the dictionary of formLow, the ends of formList
	mark int    // of formText: where the last row begins in data

	dictionary map[string]uint32 // formLow; key 0 is the empty text
	words      []string          // by key, from 1
	keys       []uint32
	last       string // text that was looked up last
	lastKey    uint32

	numbers map[string]uint8 // formEnum
	known   [256]bool

	items []*blockColumn // formList: of a list one, of a map keys and values
	count uint64         // items so far
}

var fixedWidths = map[string]int{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "Bool": 1, "Float32": 4, "Float64": 8,
	"DateTime64(6, 'UTC')": 8, "UUID": 16, "IPv6": 16,
}

// set prepares c for a column of ClickHouse's type that is filled from f, and reports whether the
// two go together.
func (c *blockColumn) set(name, kind string, f field) bool {
	*c = blockColumn{field: f, name: name}
	inner := func(prefix string) (string, bool) {
		rest, ok := strings.CutPrefix(kind, prefix+"(")
		return strings.TrimSuffix(rest, ")"), ok
	}
	if width, ok := fixedWidths[kind]; ok {
		c.form, c.width = formFixed, width
		want := map[fieldKind]string{
			boolField: "Bool", float32Field: "Float32", float64Field: "Float64", timeField: "DateTime64(6, 'UTC')", idField: "UUID", addrField: "IPv6",
		}[f.kind]
		if want != "" {
			return want == kind
		}
		return strings.HasPrefix(kind, "UInt") && slices.Contains([]fieldKind{uint64Field, uint32Field, uint16Field, uint8Field, durationField}, f.kind)
	}
	if kind == "String" {
		c.form = formText
		return f.kind == textField
	}
	if of, ok := inner("LowCardinality"); ok {
		c.form, c.dictionary = formLow, map[string]uint32{}
		c.reset()
		return of == "String" && f.kind == textField
	}
	if values, ok := inner("Enum8"); ok {
		c.form, c.width = formEnum, 1
		return c.setEnum(values) && (f.kind == textField || f.kind == uint8Field)
	}
	text := field{kind: textField}
	c.form = formList
	if of, ok := inner("Array"); ok {
		c.items = []*blockColumn{{}}
		return c.items[0].set(name, of, text) && f.kind == listField
	}
	if of, ok := inner("Map"); ok {
		key, value, _ := strings.Cut(of, ", ")
		c.items = []*blockColumn{{}, {}}
		return c.items[0].set(name, key, text) && c.items[1].set(name, value, text) && f.kind == mapField
	}
	return false
}

// setEnum reads the values of an enumeration whose words have no comma or quotation mark.
func (c *blockColumn) setEnum(values string) bool {
	c.numbers = map[string]uint8{}
	for value := range strings.SplitSeq(values, ", ") {
		word, number, _ := strings.Cut(value, " = ")
		n, err := strconv.ParseUint(number, 10, 7)
		if err != nil || len(word) < 2 {
			return false
		}
		c.numbers[strings.Trim(word, "'")], c.known[n] = uint8(n), true
	}
	empty, ok := c.numbers[""]
	return !ok || empty == 0
}

func (c *blockColumn) reset() {
	c.data, c.keys, c.count = c.data[:0], c.keys[:0], 0
	if c.form == formLow {
		clear(c.dictionary)
		c.words = c.words[:0]
		c.data, c.last, c.lastKey = append(c.data, 0), "", 0 // length of the empty text
	}
	for _, item := range c.items {
		item.reset()
	}
}

// undo takes back what the row after the first rows has added, whole or in part. A dictionary keeps
// its new words, which harms nothing.
func (c *blockColumn) undo(rows int) {
	switch c.form {
	case formFixed, formEnum:
		c.data = c.data[:rows*c.width]
	case formText:
		c.data = c.data[:c.mark]
	case formLow:
		c.keys = c.keys[:rows]
	case formList:
		c.data, c.count = c.data[:rows*8], 0
		if rows > 0 {
			c.count = binary.LittleEndian.Uint64(c.data[rows*8-8:])
		}
		for _, item := range c.items {
			item.undo(int(c.count)) //nolint:gosec // it is in memory
		}
	}
}

// appendText adds a text to a column of texts, of whatever form.
func (c *blockColumn) appendText(text []byte) bool {
	switch c.form {
	case formLow:
		c.keys = append(c.keys, c.key(text))
	case formEnum:
		n, ok := c.numbers[string(text)]
		c.data = append(c.data, n)
		return ok
	default:
		c.data = append(binary.AppendUvarint(c.data, uint64(len(text))), text...)
	}
	return true
}

// key returns the key of text in the dictionary, where it is put if it is new.
func (c *blockColumn) key(text []byte) uint32 {
	if len(text) == 0 {
		return 0
	}
	if string(text) == c.last { // rows of one message or queue follow each other
		return c.lastKey
	}
	key, ok := c.dictionary[string(text)]
	if !ok {
		word := string(text)
		key = uint32(len(c.dictionary)) + 1 //nolint:gosec // not more than rows of a block
		c.dictionary[word] = key
		c.words = append(c.words, word)
		c.data = append(binary.AppendUvarint(c.data, uint64(len(text))), text...)
	}
	c.last, c.lastKey = c.words[key-1], key
	return key
}

// appendNumber adds a number that the field's type holds; a column that is narrower takes its
// largest one.
func (c *blockColumn) appendNumber(n uint64) bool {
	switch {
	case c.form == formEnum:
		c.data = append(c.data, byte(n))
		return n < uint64(len(c.known)) && c.known[n]
	case c.width == 8:
		c.data = binary.LittleEndian.AppendUint64(c.data, n)
	case c.width == 4:
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(min(n, math.MaxUint32)))
	case c.width == 2:
		c.data = binary.LittleEndian.AppendUint16(c.data, uint16(min(n, math.MaxUint16)))
	default:
		c.data = append(c.data, byte(min(n, math.MaxUint8)))
	}
	return true
}

// appendTime adds microseconds since 1970.
func (c *blockColumn) appendTime(us int64) bool {
	c.data = binary.LittleEndian.AppendUint64(c.data, uint64(us)) //nolint:gosec // the bits of it
	return us >= firstTime && us <= lastTime
}

// appendID adds the 16 bytes of a UUID, which ClickHouse keeps as two numbers.
func (c *blockColumn) appendID(id []byte) {
	c.data = binary.LittleEndian.AppendUint64(c.data, binary.BigEndian.Uint64(id))
	c.data = binary.LittleEndian.AppendUint64(c.data, binary.BigEndian.Uint64(id[8:]))
}

// appendAddr adds an address as IPv6, the unspecified one for none.
func (c *blockColumn) appendAddr(addr netip.Addr) {
	var bytes [16]byte
	if addr.IsValid() {
		bytes = addr.As16()
	}
	c.data = append(c.data, bytes[:]...)
}

// zeros is an empty value of any width.
var zeros [16]byte

// appendValue adds a value as a record has it and reports whether it is one.
func (c *blockColumn) appendValue(value []byte) bool {
	if len(value) == 0 {
		return c.appendEmpty()
	}
	switch c.kind {
	case textField:
		c.mark = len(c.data)
		return c.appendText(value)
	case uint64Field:
		return c.appendUvarint(value, math.MaxUint64)
	case uint32Field:
		return c.appendUvarint(value, math.MaxUint32)
	case uint16Field:
		return c.appendUvarint(value, math.MaxUint16)
	case uint8Field:
		return c.appendUvarint(value, math.MaxUint8)
	case durationField:
		return c.appendUvarint(value, math.MaxInt64/1000)
	case boolField, float32Field, float64Field:
		c.data = append(c.data, value...)
		return len(value) == c.width && (c.kind != boolField || value[0] == 1)
	case timeField:
		us, size := binary.Varint(value)
		if us == noTime {
			us = 0
		}
		return c.appendTime(us) && size == len(value)
	case addrField:
		addr, ok := netip.AddrFromSlice(value)
		c.appendAddr(addr)
		return ok
	case idField:
		if len(value) != len(ID{}) {
			return false
		}
		c.appendID(value)
	case listField:
		return c.appendList(value)
	case mapField:
		return c.appendMap(value)
	}
	return true
}

// appendEmpty adds the zero value, which half of the columns have.
func (c *blockColumn) appendEmpty() bool {
	switch c.form {
	case formLow:
		c.keys = append(c.keys, 0)
	case formText:
		c.mark = len(c.data)
		c.data = append(c.data, 0)
	case formEnum:
		c.data = append(c.data, 0)
		return c.known[0]
	case formList:
		c.beginItems()
		c.data = binary.LittleEndian.AppendUint64(c.data, c.count)
	default:
		if c.width == 16 {
			c.data = append(c.data, zeros[:]...)
			return true
		}
		return c.appendNumber(0)
	}
	return true
}

// beginItems notes where the items of the next row begin, for undo.
func (c *blockColumn) beginItems() {
	for _, item := range c.items {
		item.mark = len(item.data)
	}
}

func (c *blockColumn) appendUvarint(value []byte, limit uint64) bool {
	if len(value) == 1 && value[0] < 0x80 {
		return c.appendNumber(uint64(value[0]))
	}
	n, ok := number(value, limit)
	return c.appendNumber(n) && ok
}

func (c *blockColumn) appendList(value []byte) bool {
	c.beginItems()
	for len(value) > 0 {
		item, rest, ok := cutItem(value)
		if !ok || !c.items[0].appendText(item) {
			return false
		}
		c.count, value = c.count+1, rest
	}
	c.data = binary.LittleEndian.AppendUint64(c.data, c.count)
	return true
}

// appendMap adds the entries of a map by key; of equal keys only the last, as Decode does.
func (c *blockColumn) appendMap(value []byte) bool {
	c.beginItems()
	if key, rest, ok := cutItem(value); ok {
		if item, rest, ok := cutItem(rest); ok && len(rest) == 0 { // one entry, as usual
			c.appendEntry(key, item)
			c.data = binary.LittleEndian.AppendUint64(c.data, c.count)
			return true
		}
	}
	var m map[string]string
	if !setMap(&m, value) {
		return false
	}
	c.putMap(m)
	return true
}

func (c *blockColumn) putMap(m map[string]string) {
	if len(m) > 0 {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			c.appendEntry(bytesOf(k), bytesOf(m[k]))
		}
	}
	c.data = binary.LittleEndian.AppendUint64(c.data, c.count)
}

func (c *blockColumn) appendEntry(key, value []byte) {
	c.items[0].appendText(key)
	c.items[1].appendText(value)
	c.count++
}

// appendField adds the value at p, which points to a field of c's kind, and reports whether it
// fits.
func (c *blockColumn) appendField(p unsafe.Pointer) bool {
	switch c.kind {
	case textField:
		c.mark = len(c.data)
		return c.appendText(bytesOf(*(*string)(p)))
	case uint64Field:
		return c.appendNumber(*(*uint64)(p))
	case uint32Field:
		return c.appendNumber(uint64(*(*uint32)(p)))
	case uint16Field:
		return c.appendNumber(uint64(*(*uint16)(p)))
	case uint8Field:
		return c.appendNumber(uint64(*(*uint8)(p)))
	case boolField:
		c.data = append(c.data, *(*byte)(p)) // a bool is 0 or 1
	case float32Field:
		c.data = binary.LittleEndian.AppendUint32(c.data, math.Float32bits(*(*float32)(p)))
	case float64Field:
		c.data = binary.LittleEndian.AppendUint64(c.data, math.Float64bits(*(*float64)(p)))
	case timeField:
		if t := (*time.Time)(p); !t.IsZero() {
			return c.appendTime(t.UnixMicro())
		}
		c.data = append(c.data, zeros[:8]...)
	case durationField:
		return c.appendNumber(uint64(max(0, (*time.Duration)(p).Microseconds()))) //nolint:gosec // not negative
	case addrField:
		c.appendAddr(*(*netip.Addr)(p))
	case idField:
		c.appendID((*ID)(p)[:])
	case listField:
		c.beginItems()
		for _, s := range *(*[]string)(p) {
			c.items[0].appendText(bytesOf(s))
			c.count++
		}
		c.data = binary.LittleEndian.AppendUint64(c.data, c.count)
	case mapField:
		c.beginItems()
		c.putMap(*(*map[string]string)(p))
	}
	return true
}

// Bits of the word before a dictionary (ClickHouse's SerializationLowCardinality): it follows here
// and is not shared with other blocks; the lowest byte is the width of the keys.
const ownDictionary = 1<<9 | 1<<10

// native appends the whole column to buf.
func (c *blockColumn) native(buf []byte) []byte {
	switch c.form {
	case formLow:
		if len(c.keys) == 0 {
			return buf
		}
		width := uint64(0)
		switch {
		case len(c.dictionary) >= math.MaxUint16:
			width = 2
		case len(c.dictionary) >= math.MaxUint8:
			width = 1
		}
		buf = binary.LittleEndian.AppendUint64(buf, ownDictionary|width)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(len(c.dictionary)+1))
		buf = append(buf, c.data...)
		buf = binary.LittleEndian.AppendUint64(buf, uint64(len(c.keys)))
		buf = slices.Grow(buf, len(c.keys)<<width)
		for _, key := range c.keys {
			switch width {
			case 0:
				buf = append(buf, byte(key))
			case 1:
				buf = append(buf, byte(key), byte(key>>8))
			default:
				buf = binary.LittleEndian.AppendUint32(buf, key)
			}
		}
		return buf
	default:
		buf = append(buf, c.data...)
		for _, item := range c.items {
			buf = item.native(buf)
		}
		return buf
	}
}

// bytesOf returns the bytes of s, which must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
