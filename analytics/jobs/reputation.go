package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/reputation"
	"carom/schemas/event"
	"carom/schemas/warehouse"
)

const reputationJob = "reputation"

// Reputation is the job that scores everybody: ClickHouse sums over roll-ups (reputation.Query), the formula and
// the bands, which remember where they were, are Go's. It also writes what came of
// the loop's changes (limit_outcomes).
//
// A feedback loop that has fallen silent is told of by a warning and an annotation, when it falls silent
// and when it speaks again.
type Reputation struct {
	Conn    driver.Conn
	Policy  reputation.Policy
	Log     *slog.Logger
	Version string // of carom
}

// Run scores once. A run that is killed has written nothing or all of its scores.
func (j *Reputation) Run(ctx context.Context) (Result, error) {
	return inLongTurn(ctx, j.Conn, reputationJob, j.Version, j.work)
}

func (j *Reputation) work(ctx context.Context, r *run, result *Result) error {
	feedback, err := j.feedback(ctx, r.started)
	if err != nil {
		return err
	}
	before, err := j.standings(ctx)
	if err != nil {
		return err
	}
	scores, err := j.scores(ctx, r.started, feedback)
	if err != nil {
		return err
	}
	rows := make([][]any, 0, len(scores))
	for i := range scores {
		s := &scores[i]
		was := before[s.id()]
		is := j.Policy.Next(was.Standing, s.Score, s.ScoreHigh, s.answers, r.started)
		if was.Band != "" && was.Band != is.Band {
			result.Changes++
			j.Log.InfoContext(ctx, "band changed", "kind", s.kind, "provider", s.provider, "name", s.name, "from", was.Band, "to", is.Band, "score", s.Score, "worst", s.Worst)
		}
		word := string(feedback[s.provider])
		if s.provider == "" {
			word = string(reputation.None)
			if len(s.Components) > 0 && s.Components[0].Name == reputation.Complaints {
				word = string(reputation.Live)
			}
		} else if word == "" {
			word = string(reputation.None)
		}
		rows = append(rows, []any{
			r.started, r.generation, s.kind, s.provider, s.name, s.Score, s.ScoreHigh, is.Band, is.Since, is.Toward, orEpoch(is.TowardSince),
			s.answers, s.confidence, s.perDay, word, s.capped, s.Worst,
			column(s, func(c *reputation.Component) string { return c.Name }), column(s, func(c *reputation.Component) float64 { return c.K }),
			column(s, func(c *reputation.Component) float64 { return c.N }), column(s, func(c *reputation.Component) float64 { return c.R0 }),
			column(s, func(c *reputation.Component) float64 { return c.R }), column(s, func(c *reputation.Component) float64 { return c.Low }),
			column(s, func(c *reputation.Component) float64 { return c.High }), column(s, func(c *reputation.Component) float64 { return c.Sub }),
			column(s, func(c *reputation.Component) bool { return c.Fast }),
		})
	}
	result.Keys, result.DataTo = len(scores), r.started
	if err := insert(ctx, j.Conn, r.token("reputation"), "reputation", []string{
		"ts", "generation", "kind", "provider", "name", "score", "score_high", "band", "band_since", "toward", "toward_since",
		"n_eff", "confidence", "attempts_per_day", "feedback", "capped", "worst", "components", "k", "n", "r0", "r", "low", "high", "sub", "fast",
	}, rows); err != nil {
		return err
	}
	j.tellFeedback(ctx, r, before, feedback)
	return j.outcomes(ctx, r)
}

// scored is somebody's score with what it comes from.
type scored struct {
	reputation.Result

	kind, provider, name, capped string
	answers, confidence, perDay  float64
}

func (s *scored) id() [3]string { return [3]string{s.kind, s.provider, s.name} }

// column returns one value of each component.
func column[T any](s *scored, of func(*reputation.Component) T) []T {
	all := make([]T, len(s.Components))
	for i := range s.Components {
		all[i] = of(&s.Components[i])
	}
	return all
}

// feedback judges the feedback loop of every provider.
func (j *Reputation) feedback(ctx context.Context, now time.Time) (map[string]reputation.Feedback, error) {
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters(j.Policy.Parameters(now, nil))), reputation.FeedbackQuery)
	if err != nil {
		return nil, fmt.Errorf("read complaints by provider: %w", err)
	}
	all := map[string]reputation.Feedback{}
	err = each(rows, "read complaints by provider", func() error {
		var provider string
		var oldK, oldN, newK, newN float64
		if err := rows.Scan(&provider, &oldK, &oldN, &newK, &newN); err != nil {
			return err
		}
		all[provider] = j.Policy.FeedbackOf(oldK, oldN, newK, newN)
		return nil
	})
	return all, err
}

func (j *Reputation) scores(ctx context.Context, now time.Time, feedback map[string]reputation.Feedback) ([]scored, error) {
	var live []string
	for provider, state := range feedback {
		if state == reputation.Live {
			live = append(live, provider)
		}
	}
	slices.Sort(live)
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters(j.Policy.Parameters(now, live))), reputation.Query)
	if err != nil {
		return nil, fmt.Errorf("sum answers for scores: %w", err)
	}
	var sums []reputation.Sums
	err = each(rows, "sum answers for scores", func() error {
		var s reputation.Sums
		err := rows.Scan(&s.Kind, &s.Provider, &s.Name, &s.AttemptsPerDay, &s.Permanent, &s.FastK, &s.FastN, &s.SlowK, &s.SlowN)
		sums = append(sums, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	all := make([]scored, len(sums))
	for i, result := range j.Policy.Scores(sums) {
		s := &sums[i]
		all[i] = scored{Result: result, kind: s.Kind, provider: s.Provider, name: s.Name, perDay: s.AttemptsPerDay}
		all[i].answers, all[i].confidence = result.Answers(&j.Policy)
		if s.Permanent {
			all[i].capped = "permanently deferred"
		}
	}
	return all, nil
}

// stood is where somebody stood after the last run.
type stood struct {
	reputation.Standing

	feedback string
}

// standings reads the bands of the last run within a day.
func (j *Reputation) standings(ctx context.Context) (map[[3]string]stood, error) {
	rows, err := j.Conn.Query(ctx, `
SELECT toString(kind), provider, name, band, band_since, toward, toward_since, feedback
FROM reputation
WHERE ts > now64(6, 'UTC') - INTERVAL 1 DAY
ORDER BY ts DESC
LIMIT 1 BY kind, provider, name`)
	if err != nil {
		return nil, fmt.Errorf("read reputation: %w", err)
	}
	all := map[[3]string]stood{}
	err = each(rows, "read reputation", func() error {
		var id [3]string
		var s stood
		if err := rows.Scan(&id[0], &id[1], &id[2], &s.Band, &s.Since, &s.Toward, &s.TowardSince, &s.feedback); err != nil {
			return err
		}
		all[id] = s
		return nil
	})
	return all, err
}

// tellFeedback tells people of feedback loops that fell silent or speak again. An annotation that cannot be
// written is no error of the run: the scores say the same.
func (j *Reputation) tellFeedback(ctx context.Context, r *run, before map[[3]string]stood, feedback map[string]reputation.Feedback) {
	for provider, state := range feedback {
		was := before[[3]string{"provider", provider, ""}].feedback
		var text string
		switch {
		case state == reputation.Silent && was != string(reputation.Silent):
			text = fmt.Sprintf("%s sends no complaints any more, though %s should have brought some: complaints do not count in its scores until it does. Check the feedback loop's registration.",
				provider, j.Policy.SilentWindow)
			j.Log.WarnContext(ctx, "a feedback loop fell silent", "provider", provider)
		case state == reputation.Live && was == string(reputation.Silent):
			text = provider + " sends complaints again: they count."
			j.Log.InfoContext(ctx, "a feedback loop speaks again", "provider", provider)
		default:
			continue
		}
		note := event.Annotation{Node: announcer, Time: r.started, Name: "feedback-loop", Text: text, Tags: []string{provider, string(state)}}
		if _, err := warehouse.Annotate(ctx, j.Conn, note); err != nil {
			j.Log.WarnContext(ctx, "annotation not written", "error", err)
		}
	}
}

// punishing are the rules whose outcome is written down. What a hold did does not show in answers by source.
var punishing = []string{"BACKOFF", "COOLDOWN", "SUSPEND", "CONNECTIONS-DOWN", "MESSAGES-DOWN"}

// outcomes writes what came of each change that lowered the limit of a source: what the key was answered
// in the time after it. k1m holds the answers by the minute, so the minute of the change is left out.
func (j *Reputation) outcomes(ctx context.Context, r *run) error {
	err := j.Conn.Exec(with(ctx, clickhouse.Parameters{
		"until": micros(r.started), "rules": "['" + strings.Join(punishing, "','") + "']",
	}), `
INSERT INTO limit_outcomes (id, provider, source, changed_at, after_minutes, accepted, refused, unknown, other, changes, rate, written_at)
SELECT
    c.id, c.provider, c.source, c.changed, c.after,
    sumIf(a.ok, a.ts > c.changed AND a.ts < c.changed + toIntervalMinute(c.after)), sumIf(a.rate + a.block + a.unav + a.conn + a.msgc, a.ts > c.changed AND a.ts < c.changed + toIntervalMinute(c.after)),
    sumIf(a.usr, a.ts > c.changed AND a.ts < c.changed + toIntervalMinute(c.after)), sumIf(a.grey + a.content + a.auth + a.other, a.ts > c.changed AND a.ts < c.changed + toIntervalMinute(c.after)),
    any(c.later), any(c.limit_then), fromUnixTimestamp64Micro({until:Int64}, 'UTC')
FROM
(
    SELECT
        l.id AS id, l.provider AS provider, l.source AS source, min(l.ts) AS changed, after,
        length(arrayFilter(t -> t.1 > changed AND t.1 <= changed + toIntervalMinute(after), any(h.changes))) AS later,
        arrayFold((acc, t) -> if(t.1 <= changed + toIntervalMinute(after), t.2, acc), any(h.changes), 0.) AS limit_then
    FROM limit_log AS l
    INNER JOIN (
        SELECT provider, source, arraySort(groupArray((ts, rate_new))) AS changes
        FROM limit_log
        WHERE kind IN ('change', 'operator') AND ts > fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 3 DAY
        GROUP BY provider, source
    ) AS h ON l.provider = h.provider AND l.source = h.source
    ARRAY JOIN [15, 60, 1440] AS after
    WHERE l.kind = 'change' AND has({rules:Array(String)}, l.rule_id) AND l.ts > fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 2 DAY
        AND l.ts + toIntervalMinute(after) + INTERVAL 1 MINUTE < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
        AND (l.id, after) NOT IN (SELECT id, after_minutes FROM limit_outcomes WHERE changed_at > fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 2 DAY)
    GROUP BY id, provider, source, after
) AS c
LEFT JOIN (
    SELECT provider, source, ts, sum(ok) AS ok, sum(usr) AS usr, sum(rate) AS rate, sum(conn) AS conn, sum(msgc) AS msgc, sum(block) AS block, sum(grey) AS grey, sum(unav) AS unav,
        sum(content) AS content, sum(auth) AS auth, sum(other) AS other
    FROM k1m
    WHERE ts > fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 2 DAY
        AND (provider, source) IN (SELECT provider, source FROM limit_log WHERE limit_log.ts > fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 2 DAY AND has({rules:Array(String)}, rule_id))
    GROUP BY provider, source, ts
) AS a ON c.provider = a.provider AND c.source = a.source
GROUP BY c.id, c.provider, c.source, c.changed, c.after`)
	if err != nil {
		return fmt.Errorf("write limit_outcomes: %w", err)
	}
	return nil
}
