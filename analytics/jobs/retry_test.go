package jobs

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func TestRetrying(t *testing.T) {
	exception := func(code int32) error {
		return fmt.Errorf("write limit_log: %w", &clickhouse.Exception{Code: code, Message: "x"})
	}
	for _, tc := range []struct {
		name  string
		fails []error // then it works
		want  int     // calls
		ok    bool
	}{
		{"at once", nil, 1, true},
		{"a quorum that the insert before waits for", []error{exception(286), exception(286)}, 3, true},
		{"a cut connection", []error{errors.New("EOF")}, 2, true},
		{"for too long", []error{exception(252), exception(252), exception(252), exception(252)}, insertTries, false},
		{"a login that may not", []error{exception(497)}, 1, false},
		{"a bad row", []error{exception(321)}, 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := retrying(t.Context(), func() error {
					calls++
					if calls <= len(tc.fails) {
						return tc.fails[calls-1]
					}
					return nil
				})
				if calls != tc.want || (err == nil) != tc.ok {
					t.Errorf("%d calls and error %v, want %d calls", calls, err, tc.want)
				}
			})
		})
	}
}

func TestRetryingEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), insertPause/2)
		defer cancel()
		calls, began := 0, time.Now()
		err := retrying(ctx, func() error {
			calls++
			return errors.New("EOF")
		})
		if err == nil || calls != 1 || time.Since(began) > insertPause {
			t.Errorf("%d calls in %s, error %v; want one call, and its error when the run's time is over", calls, time.Since(began), err)
		}
	})
}
