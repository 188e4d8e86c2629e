//go:build unix

package engine

import (
	"testing"
	"time"
)

func TestScaleNow(t *testing.T) {
	origin := time.Unix(1000, 0)
	const now = "fromUnixTimestamp64Micro(1000000000 + (toUnixTimestamp64Micro(now64(6)) - 1000000000) * 20, 'UTC')"
	for _, tc := range []struct{ sql, want string }{
		{"SELECT now64(6, 'UTC') - 1", "SELECT " + now + " - 1"},
		{"SELECT NOW64 ( 6 )", "SELECT " + now},
		{"SELECT now64()", "SELECT toDateTime64(" + now + ", 3, 'UTC')"},
		{"SELECT now64(0)", "SELECT toDateTime64(" + now + ", 0, 'UTC')"},
		{"SELECT now() - 5", "SELECT toDateTime(" + now + ", 'UTC') - 5"},
		{"SELECT known(6), snow64(6), now", "SELECT known(6), snow64(6), now"},
	} {
		if got := scaleNow(tc.sql, 20, origin); got != tc.want {
			t.Errorf("scaleNow(%q) = %q, want %q", tc.sql, got, tc.want)
		}
	}
}
