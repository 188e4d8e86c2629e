package jobs

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"carom/analytics/suppression"
)

// addSoft notes the soft bounces of the slice, and suppresses for a while who has too many. Only
// addresses with enough of them are looked for among deliveries, so that its cost follows them and
// not the mail.
func (s *Suppression) addSoft(ctx context.Context, r *run, parameters clickhouse.Parameters) error {
	if err := s.Conn.Exec(with(ctx, parameters), `
INSERT INTO soft_bounces (recipient_key, message_id, recipient_index, time, category, provider, reply)
SELECT
    recipient_key, if(kind = 'remote-bounce', original_message_id, message_id) AS message,
    if(kind = 'remote-bounce', original_index, recipient_index) AS index,
    min(least(time, arrived)), argMin(category, time), argMin(provider, time), substring(argMin(reply, time), 1, 500)
FROM events
WHERE `+inSlice+` AND `+isSoft+`
    AND (recipient_key, message, index) NOT IN (
        SELECT recipient_key, message_id, recipient_index FROM soft_bounces
        WHERE recipient_key IN (SELECT recipient_key FROM events WHERE `+inSlice+` AND `+isSoft+`))
GROUP BY recipient_key, message, index`); err != nil {
		return fmt.Errorf("note soft bounces: %w", err)
	}
	candidates, err := s.softCandidates(ctx, r, parameters)
	if err != nil || len(candidates) == 0 {
		return err
	}
	var rows [][]any
	for key, c := range candidates {
		if !s.Policy.SoftBounces.Exhausted(c.bounces, c.delivered, r.started) {
			continue
		}
		rows = append(rows, []any{
			key, "", c.last, false, false, c.category, "job", c.provider, suppressionJob,
			fmt.Sprintf("refused on %d days within %d, nothing delivered since; the last reply: %s", s.Policy.SoftBounces.Days, s.Policy.SoftBounces.Within, c.reply),
			c.message, c.index, r.started.AddDate(0, 0, s.Policy.SoftBounces.Expires),
		})
	}
	return insert(ctx, s.Conn, r.token("suppressions.soft"), "suppressions", []string{
		"recipient_key", "tenant", "time", "tombstone", "pending", "category", "origin", "provider", "actor",
		"reason", "message_id", "recipient_index", "expires_at",
	}, rows)
}

// softCandidate is an address of the slice that was refused on enough days.
type softCandidate struct {
	bounces   []suppression.SoftBounce
	delivered time.Time // last delivery since the first of them, 1970 for none

	// Of the last bounce.
	last            time.Time
	category, reply string
	provider        string
	message         uuid.UUID
	index           uint32
}

// softCandidates returns the addresses of the slice with enough soft bounces that are not
// suppressed for them already.
func (s *Suppression) softCandidates(ctx context.Context, r *run, parameters clickhouse.Parameters) (map[string]*softCandidate, error) {
	parameters = maps.Clone(parameters)
	parameters["from"] = micros(r.started.AddDate(0, 0, -s.Policy.SoftBounces.Within))
	parameters["days"] = fmt.Sprint(s.Policy.SoftBounces.Days)
	enough := `
    SELECT recipient_key
    FROM soft_bounces
    WHERE time > fromUnixTimestamp64Micro({from:Int64}, 'UTC')
        AND recipient_key IN (SELECT recipient_key FROM events WHERE ` + inSlice + ` AND ` + isSoft + `)
    GROUP BY recipient_key
    HAVING uniqExact(toDate(time, 'UTC')) >= {days:UInt32}`
	rows, err := s.Conn.Query(with(ctx, parameters), `
SELECT b.recipient_key, b.times, b.last.1, b.last.2, b.last.3, b.last.4, b.last.5, b.last.6, d.delivered
FROM
(
    SELECT recipient_key, groupArray(time) AS times, argMax((time, category, provider, reply, message_id, recipient_index), time) AS last
    FROM soft_bounces
    WHERE time > fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND recipient_key IN (`+enough+`)
    GROUP BY recipient_key
) AS b
LEFT JOIN
(
    SELECT recipient_key, max(time) AS delivered
    FROM events
    WHERE kind = 'delivered' AND time > fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND recipient_key IN (`+enough+`)
    GROUP BY recipient_key
) AS d ON b.recipient_key = d.recipient_key
WHERE (b.recipient_key, b.last.1) NOT IN (
    SELECT recipient_key, time FROM suppressions WHERE tenant = '' AND recipient_key IN (`+enough+`))`)
	if err != nil {
		return nil, fmt.Errorf("count soft bounces: %w", err)
	}
	candidates := map[string]*softCandidate{}
	err = each(rows, "count soft bounces", func() error {
		var key string
		var times []time.Time
		c := &softCandidate{}
		if err := rows.Scan(&key, &times, &c.last, &c.category, &c.provider, &c.reply, &c.message, &c.index, &c.delivered); err != nil {
			return err
		}
		for _, at := range times {
			c.bounces = append(c.bounces, suppression.SoftBounce{Time: at})
		}
		candidates[key] = c
		return nil
	})
	return candidates, err
}
