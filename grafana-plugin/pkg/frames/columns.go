// Package frames makes Grafana's data frames of ClickHouse's answers.
//
// Read takes the rows of an answer, up to a number, and returns one field for each column in a type
// that Grafana knows. Numbers that a browser cannot hold exactly (integers beyond 2^53, decimals that
// are no float64) come as text; arrays, maps and tuples as JSON; addresses and UUIDs as text. Wide
// makes time series of such fields. Nothing here talks to ClickHouse by itself, and nothing is safe for
// concurrent use.
package frames

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/chcol"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/shopspring/decimal"
)

// maxExact is the largest integer up to which a browser's numbers are exact.
const maxExact = 1 << 53

// Rows is what Read needs of driver.Rows.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	ColumnTypes() []driver.ColumnType
	Err() error
}

// Read reads at most limit rows and reports whether there were more. The caller closes rows.
func Read(rows Rows, limit int) (fields data.Fields, more bool, err error) {
	types := rows.ColumnTypes()
	columns := make([]column, len(types))
	dest := make([]any, len(types))
	for i, t := range types {
		columns[i] = columnOf(t.ScanType())
		dest[i] = columns[i].dest()
	}
	n := 0
	for rows.Next() {
		if n == limit {
			more = true
			break
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, false, fmt.Errorf("read a row: %w", err)
		}
		for _, c := range columns {
			c.add()
		}
		n++
	}
	if err := rows.Err(); err != nil && !more {
		return nil, false, err
	}
	fields = make(data.Fields, len(types))
	for i, c := range columns {
		fields[i] = c.field(types[i].Name())
	}
	return fields, more, nil
}

// A column collects the values of one column.
type column interface {
	dest() any // what Scan writes to
	add()
	field(name string) *data.Field
}

// columnOf returns a column for values that the client scans into t. A pointer is a Nullable.
func columnOf(t reflect.Type) column {
	nullable := t != nil && t.Kind() == reflect.Pointer && t != reflect.TypeFor[*big.Int]()
	base := t
	if nullable {
		base = t.Elem()
	}
	switch base {
	case reflect.TypeFor[string]():
		return same[string](nullable)
	case reflect.TypeFor[bool]():
		return same[bool](nullable)
	case reflect.TypeFor[int8]():
		return same[int8](nullable)
	case reflect.TypeFor[int16]():
		return same[int16](nullable)
	case reflect.TypeFor[int32]():
		return same[int32](nullable)
	case reflect.TypeFor[uint8]():
		return same[uint8](nullable)
	case reflect.TypeFor[uint16]():
		return same[uint16](nullable)
	case reflect.TypeFor[uint32]():
		return same[uint32](nullable)
	case reflect.TypeFor[float32]():
		return same[float32](nullable)
	case reflect.TypeFor[float64]():
		return same[float64](nullable)
	case reflect.TypeFor[time.Time]():
		return same[time.Time](nullable)
	case reflect.TypeFor[int64]():
		return exact(nullable, func(v int64) (float64, bool) { return float64(v), v <= maxExact && v >= -maxExact }, func(v int64) string { return fmt.Sprint(v) })
	case reflect.TypeFor[uint64]():
		return exact(nullable, func(v uint64) (float64, bool) { return float64(v), v <= maxExact }, func(v uint64) string { return fmt.Sprint(v) })
	case reflect.TypeFor[decimal.Decimal]():
		return exact(nullable, func(v decimal.Decimal) (float64, bool) {
			f, _ := v.Float64()
			return f, !math.IsInf(f, 0) && decimal.NewFromFloat(f).Equal(v)
		}, decimal.Decimal.String)
	case reflect.TypeFor[*big.Int](), reflect.TypeFor[big.Int]():
		return &bigs{}
	case reflect.TypeFor[uuid.UUID]():
		return text(nullable, uuid.UUID.String)
	case reflect.TypeFor[net.IP]():
		return text(nullable, address)
	}
	if t == nil {
		return &others{value: new(any)}
	}
	return &others{value: reflect.New(t).Interface()}
}

// address writes an IPv4 address as one, also where it is stored as IPv6.
func address(ip net.IP) string {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return ip.String()
	}
	return a.Unmap().String()
}

// values collects values that Grafana's fields hold as they are.
type values[T any] struct {
	value T
	all   []T
}

func (c *values[T]) dest() any { return &c.value }

func (c *values[T]) add() {
	c.all = append(c.all, c.value)
	var zero T // a pointer must not be written through again
	c.value = zero
}

func (c *values[T]) field(name string) *data.Field { return data.NewField(name, nil, c.all) }

func same[T any](nullable bool) column {
	if nullable {
		return &values[*T]{}
	}
	return &values[T]{}
}

// converted collects values that become text.
type converted[T any] struct {
	value    T
	pointer  *T
	nullable bool
	words    func(T) string
	all      []*string
}

func text[T any](nullable bool, words func(T) string) column {
	return &converted[T]{nullable: nullable, words: words}
}

func (c *converted[T]) dest() any {
	if c.nullable {
		return &c.pointer
	}
	return &c.value
}

func (c *converted[T]) add() {
	p := &c.value
	if c.nullable {
		p = c.pointer
	}
	if p == nil {
		c.all = append(c.all, nil)
		return
	}
	s := c.words(*p)
	c.all = append(c.all, &s)
	c.pointer = nil
}

func (c *converted[T]) field(name string) *data.Field {
	if c.nullable {
		return data.NewField(name, nil, c.all)
	}
	plain := make([]string, len(c.all))
	for i, s := range c.all {
		plain[i] = *s
	}
	return data.NewField(name, nil, plain)
}

// numbers collects numbers that become float64 if all of them do so exactly, else text.
type numbers[T any] struct {
	value    T
	pointer  *T
	nullable bool
	number   func(T) (float64, bool)
	words    func(T) string
	all      []T
	null     []bool // nil for a column that is not Nullable
	inexact  bool
}

func exact[T any](nullable bool, number func(T) (float64, bool), words func(T) string) column {
	return &numbers[T]{nullable: nullable, number: number, words: words}
}

func (c *numbers[T]) dest() any {
	if c.nullable {
		return &c.pointer
	}
	return &c.value
}

func (c *numbers[T]) add() {
	v := c.value
	if c.nullable {
		c.null = append(c.null, c.pointer == nil)
		var zero T
		v = zero
		if c.pointer != nil {
			v = *c.pointer
		}
		c.pointer = nil
	}
	if _, ok := c.number(v); !ok {
		c.inexact = true
	}
	c.all = append(c.all, v)
}

func (c *numbers[T]) field(name string) *data.Field {
	if c.inexact {
		return build(name, c.all, c.null, c.words)
	}
	return build(name, c.all, c.null, func(v T) float64 { f, _ := c.number(v); return f })
}

// build makes a field of converted values, nullable if null is not nil.
func build[T, F any](name string, all []T, null []bool, convert func(T) F) *data.Field {
	if null == nil {
		out := make([]F, len(all))
		for i, v := range all {
			out[i] = convert(v)
		}
		return data.NewField(name, nil, out)
	}
	out := make([]*F, len(all))
	for i, v := range all {
		if !null[i] {
			f := convert(v)
			out[i] = &f
		}
	}
	return data.NewField(name, nil, out)
}

// bigs collects integers of 128 and 256 bits. The client makes a *big.Int of a Nullable one too.
type bigs struct {
	value *big.Int
	all   []*big.Int
}

func (c *bigs) dest() any { return &c.value }

func (c *bigs) add() {
	c.all = append(c.all, c.value)
	c.value = nil
}

func (c *bigs) field(name string) *data.Field {
	out := make([]*string, len(c.all))
	numbers, small := make([]*float64, len(c.all)), true
	for i, v := range c.all {
		if v == nil {
			continue
		}
		s := v.String()
		f, _ := new(big.Float).SetInt(v).Float64()
		out[i], numbers[i] = &s, &f
		small = small && math.Abs(f) <= maxExact
	}
	if small {
		return data.NewField(name, nil, numbers)
	}
	return data.NewField(name, nil, out)
}

// others collects whatever else there is, as JSON.
type others struct {
	value any // pointer
	all   []json.RawMessage
}

func (c *others) dest() any { return c.value }

func (c *others) add() {
	v := reflect.ValueOf(c.value).Elem()
	text, err := json.Marshal(plain(v))
	if err != nil {
		text, _ = json.Marshal(fmt.Sprint(v.Interface())) // a string always is JSON
	}
	c.all = append(c.all, text)
	v.SetZero()
}

func (c *others) field(name string) *data.Field { return data.NewField(name, nil, c.all) }

// plain returns v as what JSON can say: NaN as null, octets as numbers, addresses as people write
// them, keys of maps as text.
func plain(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if v.CanAddr() {
		if j, ok := reflect.TypeAssert[*chcol.JSON](v.Addr()); ok {
			return plain(reflect.ValueOf(j.NestedMap()))
		}
	}
	switch x := v.Interface().(type) {
	case chcol.Variant: // or Dynamic
		return plain(reflect.ValueOf(x.Any()))
	case time.Time:
		return x
	case uuid.UUID:
		return x.String()
	case net.IP:
		return address(x)
	case decimal.Decimal:
		return x.String()
	case *big.Int:
		if x == nil {
			return nil
		}
		return x.String()
	case uint64:
		if x > maxExact {
			return fmt.Sprint(x)
		}
		return x
	case int64:
		if x > maxExact || x < -maxExact {
			return fmt.Sprint(x)
		}
		return x
	}
	switch v.Kind() { //nolint:exhaustive // everything else is itself
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil
		}
		return v.Interface()
	case reflect.Slice, reflect.Array:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.Map:
		out := make(map[string]any, v.Len())
		for _, k := range v.MapKeys() {
			out[fmt.Sprint(plain(k))] = plain(v.MapIndex(k))
		}
		return out
	}
	return v.Interface()
}
