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
	"carom/schemas/warehouse/questions"
)

// TestAnswers asks every question about a history of which the answers are known: when the events
// have just come in, and again when the jobs have summed them up.
func TestAnswers(t *testing.T) {
	w, conn := build(), migrated(t)
	if _, err := questions.LastWeek(t.Context(), conn); !errors.Is(err, questions.ErrEmpty) {
		t.Errorf("LastWeek without events: %v, want ErrEmpty", err)
	}
	w.store(t, conn)
	period, err := questions.LastWeek(t.Context(), conn)
	if err != nil || period != week {
		t.Fatalf("LastWeek = %v, %v, want %v", period, err, week)
	}
	all := slices.Concat(questions.All(), questions.Analyst())
	if len(all) != len(answers) {
		t.Errorf("%d questions, %d answers", len(all), len(answers))
	}
	ask := func(t *testing.T) {
		for _, q := range all {
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
	}
	t.Run("fresh", ask)
	if testing.Short() {
		return // summing up makes many small parts, each brought to the disk
	}
	for _, table := range warehouse.Coarser() {
		// Yesterday is summed up, the last day is not.
		if err := warehouse.RollUp(t.Context(), conn, table, monday, end.Add(-day)); err != nil {
			t.Fatal(err)
		}
	}
	var reach time.Time
	if err := conn.QueryRow(t.Context(), "SELECT max(ts) FROM rollup_1d").Scan(&reach); err != nil || reach.IsZero() || reach.Unix() == 0 {
		t.Fatalf("rollup_1d reaches %v, %v, want a day", reach, err)
	}
	t.Run("summed up", ask)
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
