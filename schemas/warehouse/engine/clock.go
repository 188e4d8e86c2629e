//go:build unix

package engine

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/warehouse/engine/sqltext"
)

// nowCall is a call of now64 with its arguments, or of now.
var nowCall = regexp.MustCompile(`(?i)\bnow(?:64\s*\(\s*([0-9]?)\s*(?:,\s*'[^']*'\s*)?\)|\s*\(\s*(?:'[^']*'\s*)?\))`)

// inOurTime returns a statement whose calls of now and now64 tell the time of package clock: the engine
// has the machine's. Without --time-scale the statement is left alone, and so are inserts, whose text may
// be data. Tables that are made so keep the scale in their defaults.
func inOurTime(s *sqltext.Statement) (*sqltext.Statement, error) {
	if clock.Scale() == 1 || s.Kind == sqltext.Insert || !nowCall.MatchString(s.Text) {
		return s, nil
	}
	return sqltext.Parse(scaleNow(s.Text, clock.Scale(), clock.Origin()))
}

// scaleNow replaces the calls of now and now64 in a statement.
func scaleNow(sql string, scale int, origin time.Time) string {
	micros := fmt.Sprintf("fromUnixTimestamp64Micro(%d + (toUnixTimestamp64Micro(now64(6)) - %[1]d) * %[2]d, 'UTC')", origin.UnixMicro(), scale)
	return nowCall.ReplaceAllStringFunc(sql, func(call string) string {
		precision := nowCall.FindStringSubmatch(call)[1]
		switch {
		case !strings.HasPrefix(strings.ToLower(call), "now64"):
			return "toDateTime(" + micros + ", 'UTC')"
		case precision == "6":
			return micros
		case precision == "":
			precision = "3"
		}
		return "toDateTime64(" + micros + ", " + precision + ", 'UTC')"
	})
}
