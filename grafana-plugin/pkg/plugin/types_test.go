//go:build unix

package plugin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
)

// types asks for a value of each type of ClickHouse: the type of its field, and what Grafana is given.
func types(t *testing.T, s source) {
	const null = "<nil>"
	all := []struct {
		expr string
		kind data.FieldType
		want string
	}{
		{"toInt8(-1)", data.FieldTypeInt8, "-1"},
		{"toUInt8(1)", data.FieldTypeUint8, "1"},
		{"toInt16(-1)", data.FieldTypeInt16, "-1"},
		{"toUInt16(1)", data.FieldTypeUint16, "1"},
		{"toInt32(-1)", data.FieldTypeInt32, "-1"},
		{"toUInt32(1)", data.FieldTypeUint32, "1"},
		{"toInt64(-9007199254740992)", data.FieldTypeFloat64, "-9.007199254740992e+15"},
		{"toInt64(-9007199254740993)", data.FieldTypeString, "-9007199254740993"},
		{"toUInt64(9007199254740992)", data.FieldTypeFloat64, "9.007199254740992e+15"},
		{"toUInt64(18446744073709551615)", data.FieldTypeString, "18446744073709551615"},
		{"toNullable(toUInt64(18446744073709551615))", data.FieldTypeNullableString, "18446744073709551615"},
		{"CAST(NULL, 'Nullable(Int64)')", data.FieldTypeNullableFloat64, null},
		{"CAST(NULL, 'Nullable(UInt8)')", data.FieldTypeNullableUint8, null},
		{"toInt128('170141183460469231731687303715884105727')", data.FieldTypeNullableString, "170141183460469231731687303715884105727"},
		{"toUInt256(7)", data.FieldTypeNullableFloat64, "7"},
		{"CAST(NULL, 'Nullable(Int128)')", data.FieldTypeNullableFloat64, null},
		{"toFloat32(0.5)", data.FieldTypeFloat32, "0.5"},
		{"nan", data.FieldTypeFloat64, "NaN"},
		{"-inf", data.FieldTypeFloat64, "-Inf"},
		{"toNullable(0.1)", data.FieldTypeNullableFloat64, "0.1"},
		{"CAST(NULL, 'Nullable(Float64)')", data.FieldTypeNullableFloat64, null},
		{"toDecimal32('12.50', 2)", data.FieldTypeFloat64, "12.5"},
		{"toDecimal128('12345678901234567890.5', 1)", data.FieldTypeString, "12345678901234567890.5"},
		{"toDecimal256('-0.000000000000000000000000000000000000000000000000000001', 54)", data.FieldTypeFloat64, "-1e-54"},
		{"CAST(NULL, 'Nullable(Decimal(9, 2))')", data.FieldTypeNullableFloat64, null},
		{"true", data.FieldTypeBool, "true"},
		{"CAST(NULL, 'Nullable(Bool)')", data.FieldTypeNullableBool, null},
		{"'word'", data.FieldTypeString, "word"},
		{"CAST(NULL, 'Nullable(String)')", data.FieldTypeNullableString, null},
		{"toFixedString('abc', 3)", data.FieldTypeString, "abc"},
		{"toLowCardinality('x')", data.FieldTypeString, "x"},
		{"toLowCardinality(toNullable('x'))", data.FieldTypeNullableString, "x"},
		{"toLowCardinality(toUInt32(5))", data.FieldTypeUint32, "5"},
		{"CAST('a', 'Enum8(\\'a\\' = 1)')", data.FieldTypeString, "a"},
		{"CAST('b', 'Enum16(\\'b\\' = 1000)')", data.FieldTypeString, "b"},
		{"CAST(NULL, 'Nullable(Enum8(\\'a\\' = 1))')", data.FieldTypeNullableString, null},
		{"toDate('2026-11-29')", data.FieldTypeTime, "2026-11-29T00:00:00Z"},
		{"toDate32('1925-01-01')", data.FieldTypeTime, "1925-01-01T00:00:00Z"},
		{"toDateTime('2026-11-29 12:00:00', 'Europe/Berlin')", data.FieldTypeTime, "2026-11-29T11:00:00Z"},
		{"toDateTime64('2026-11-29 12:00:00.123456789', 9, 'UTC')", data.FieldTypeTime, "2026-11-29T12:00:00.123456789Z"},
		{"CAST(NULL, 'Nullable(DateTime)')", data.FieldTypeNullableTime, null},
		{"toIPv4('192.0.2.1')", data.FieldTypeString, "192.0.2.1"},
		{"toIPv6('::ffff:192.0.2.1')", data.FieldTypeString, "192.0.2.1"},
		{"toIPv6('2001:db8::1')", data.FieldTypeString, "2001:db8::1"},
		{"CAST(NULL, 'Nullable(IPv6)')", data.FieldTypeNullableString, null},
		{"toUUID('0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60')", data.FieldTypeString, "0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60"},
		{"CAST(NULL, 'Nullable(UUID)')", data.FieldTypeNullableString, null},
		{"[1, nan]::Array(Float64)", data.FieldTypeJSON, "[1,null]"},
		{"[1, NULL]::Array(Nullable(Int64))", data.FieldTypeJSON, "[1,null]"},
		{"[[toUInt8(1)], []]", data.FieldTypeJSON, "[[1],[]]"},
		{"[toUUID('0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60')]", data.FieldTypeJSON, `["0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60"]`},
		{"[toIPv6('::ffff:192.0.2.1')]", data.FieldTypeJSON, `["192.0.2.1"]`},
		{"map('a', toUInt64(18446744073709551615))", data.FieldTypeJSON, `{"a":"18446744073709551615"}`},
		{"map(toUInt8(1), [toDate('2026-11-29')])", data.FieldTypeJSON, `{"1":["2026-11-29T00:00:00Z"]}`},
		{"(1, 'a')", data.FieldTypeJSON, `[1,"a"]`},
		{"CAST((1, 'a'), 'Tuple(n UInt8, word String)')", data.FieldTypeJSON, `{"n":1,"word":"a"}`},
		{"[(1, 'a')]", data.FieldTypeJSON, `[[1,"a"]]`},
		{"NULL", data.FieldTypeJSON, "null"},
		{`'{"a": {"b": [1, 2]}, "c": "x"}'::JSON`, data.FieldTypeJSON, `{"a":{"b":[1,2]},"c":"x"}`},
		{"1::Variant(UInt8, String)", data.FieldTypeJSON, "1"},
		{"(1.5, 2.5)::Point", data.FieldTypeJSON, "[1.5,2.5]"},
		{"INTERVAL 3 DAY", data.FieldTypeString, "3 Days"},
	}
	columns := make([]string, len(all))
	for i, one := range all {
		columns[i] = fmt.Sprintf("%s AS c%d", one.expr, i)
	}
	f := sql(t, s, "table", "SELECT "+strings.Join(columns, ", "))
	if len(f.Fields) != len(all) {
		t.Fatalf("%d fields, want %d", len(f.Fields), len(all))
	}
	for i, one := range all {
		field, got := f.Fields[i], null
		if v, ok := field.ConcreteAt(0); ok {
			switch x := v.(type) {
			case time.Time:
				got = x.UTC().Format(time.RFC3339Nano)
			case fmt.Stringer:
				got = x.String()
			default:
				got = fmt.Sprintf("%v", v)
				if field.Type() == data.FieldTypeJSON {
					got = fmt.Sprintf("%s", v)
				}
			}
		}
		if field.Type() != one.kind || got != one.want {
			t.Errorf("%s is %s of %s, want %s of %s", one.expr, got, field.Type(), one.want, one.kind)
		}
	}
	states, err := s.ask(t.Context(), ranges["6h"], map[string]any{"mode": "sql", "format": "table", "sql": "SELECT initializeAggregation('sumState', 1)"})
	if err != nil || states.Error == nil || !strings.Contains(states.Error.Error(), "states of aggregate functions, which cannot be shown") {
		t.Errorf("a state of an aggregate function: %v %v", err, states.Error)
	}
}
