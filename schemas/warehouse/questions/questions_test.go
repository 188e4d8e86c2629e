package questions_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
	"carom/schemas/warehouse/questions"
)

// TestAnswers asks every question about a history of which the answers are known.
func TestAnswers(t *testing.T) {
	w := build()
	conn := w.store(t)
	period, err := questions.LastWeek(t.Context(), conn)
	if err != nil || period != week {
		t.Fatalf("LastWeek = %v, %v, want %v", period, err, week)
	}
	for _, q := range slices.Concat(questions.All(), questions.Analyst()) {
		t.Run(q.ID, func(t *testing.T) {
			expect := answers[q.ID]
			if expect == nil {
				t.Fatal("nobody knows the answer")
			}
			want := expect(w)
			if len(want) == 0 {
				t.Fatal("the history has nothing to answer with")
			}
			got, err := q.Ask(t.Context(), conn, week)
			if err != nil {
				t.Fatalf("%v\n%s", err, q.SQL)
			}
			if differences := compareRows(got.Rows, want); differences != "" {
				t.Errorf("columns %v\n%s\n%s", got.Columns, differences, q.SQL)
			}
		})
	}
	if n := len(questions.All()) + len(questions.Analyst()); n != len(answers) {
		t.Errorf("%d questions, %d answers", n, len(answers))
	}
}

// compareRows returns the first rows that differ, in words.
func compareRows(got, want [][]any) string {
	var b strings.Builder
	for i := range max(len(got), len(want)) {
		var g, w []any
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !equalRow(g, w) {
			fmt.Fprintf(&b, "row %d\n  got  %v\n  want %v\n", i, plainRow(g), w)
		}
		if b.Len() > 2000 {
			break
		}
	}
	return b.String()
}

func equalRow(got, want []any) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if !equal(plain(got[i]), want[i]) {
			return false
		}
	}
	return true
}

func equal(got, want any) bool {
	number, isNumber := got.(float64)
	switch w := want.(type) {
	case approx:
		return isNumber && math.Abs(number-w.want) <= w.within
	case between:
		return isNumber && number >= w.low && number <= w.high
	case int:
		return isNumber && number == float64(w)
	case float64:
		return isNumber && math.Abs(number-w) < 1e-9
	case time.Time:
		at, ok := got.(time.Time)
		return ok && at.Equal(w)
	default:
		return got == want
	}
}

func plainRow(row []any) []any {
	list := make([]any, len(row))
	for i := range row {
		list[i] = plain(row[i])
	}
	return list
}

// plain makes every number a float64, what has a text form of its own a string, and of pointers
// what they point to.
func plain(v any) any {
	if v == nil {
		return nil
	}
	switch value := reflect.ValueOf(v); {
	case value.Kind() == reflect.Pointer && value.IsNil():
		return nil
	case value.Kind() == reflect.Pointer:
		return plain(value.Elem().Interface())
	case value.CanInt():
		return float64(value.Int())
	case value.CanUint():
		return float64(value.Uint())
	case value.CanFloat():
		return value.Float()
	}
	switch v := v.(type) {
	case time.Time:
		return v
	case fmt.Stringer:
		return v.String()
	default:
		return v
	}
}

func TestLastWeekOfNothing(t *testing.T) {
	url := chtest.Start(t).URL() + "/carom"
	if _, err := warehouse.Apply(t.Context(), url, warehouse.Options{}, "test"); err != nil {
		t.Fatal(err)
	}
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := questions.LastWeek(t.Context(), conn); !errors.Is(err, questions.ErrEmpty) {
		t.Errorf("LastWeek without events: %v, want ErrEmpty", err)
	}
}
