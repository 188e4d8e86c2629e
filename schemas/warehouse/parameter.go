package warehouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// inArray escapes a text between the quotes of an array.
var inArray = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// TextArray writes texts as the value of a bound parameter of type Array(String). A query that looks for
// one of many asks with IN, which makes a set of them; has looks through the array for each row.
func TextArray(texts []string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, text := range texts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\'')
		_, _ = inArray.WriteString(&b, text) // a Builder takes everything
		b.WriteByte('\'')
	}
	b.WriteByte(']')
	return b.String()
}

// Now returns the time by the warehouse's clock, in UTC.
func Now(ctx context.Context, conn driver.Conn) (now time.Time, err error) {
	if err := conn.QueryRow(ctx, "SELECT now64(6, 'UTC')").Scan(&now); err != nil {
		return now, fmt.Errorf("read the warehouse's clock: %w", err)
	}
	return now.UTC(), nil
}

// Hourly is a query of columns of the roll-up by the hour, and, of the hours that it does not hold yet, of that by
// the minute. Both are read where condition holds; ts is then the start of an hour or of a minute.
func Hourly(columns, condition string) string {
	return "SELECT " + columns + " FROM k1h WHERE " + condition +
		"\nUNION ALL\nSELECT " + columns + " FROM k1m WHERE ts >= (SELECT max(ts) + INTERVAL 1 HOUR FROM k1h) AND " + condition
}

// IsPermanentlyDeferred is the condition that sample_reply says that retrying does not help, though the code is one
// of a deferral: Yahoo's TS03. Only k1m keeps enough replies to find one.
const IsPermanentlyDeferred = "(positionCaseInsensitive(sample_reply, 'permanently deferred') > 0 OR position(sample_reply, '[TS03]') > 0)"
