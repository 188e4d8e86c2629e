package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/policy"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

const (
	holdsJob = "holds"

	// holdSpan is how far back deliveries and their complaints count.
	holdSpan = 72 * time.Hour
	// cohortSpan is how far back the mail lies by which it is known how late complaints come, and
	// cohortLeast how many complaints it must have.
	cohortSpan  = 14 * 24 * time.Hour
	cohortLeast = 50
)

// The rules of holds, as limit_log names them.
const (
	RuleHold        control.Rule = "HOLD"
	RuleHoldTrickle control.Rule = "HOLD-TRICKLE"
	RuleHoldAsk     control.Rule = "HOLD-ASK"
	RuleHoldAlert   control.Rule = "HOLD-ALERT"
	RuleHoldRelease control.Rule = "HOLD-RELEASE"
)

// Holds is the job that keeps mail back that too many recipients complain about: by a provider and, of the
// tenant's mail, the narrowest part that explains the complaints. control.DecideHold decides; here its
// numbers are read: complaints that are proven, by the hour of their delivery, beside the deliveries of
// that hour. What is held stands in the table holds and reaches the nodes with the next run of throttle.
//
// A provider where the loop only advises has a would_change row an hour instead of a hold. After an
// operator released a hold, only mail of later hours counts against the tenant.
type Holds struct {
	Conn    driver.Conn
	Policy  *policy.Policy
	Log     *slog.Logger
	Version string // of carom
}

// Run looks at every tenant with complaints once.
func (j *Holds) Run(ctx context.Context) (Result, error) {
	return inTurn(ctx, j.Conn, holdsJob, j.Version, j.work)
}

// hold is a row of holds.
type hold struct {
	id, status                        string
	provider, tenant, job, fromDomain string
	share                             float64
	began                             time.Time
	complaints                        uint64
	delivered, low, volume            float64
	reasonID, reason, actor           string
	updated                           time.Time
}

func (h *hold) inForce() bool { return h.status == "held" || h.status == "trickle" }

// holdColumns are those of holds but for the version.
const holdColumns = "id, toString(status), provider, tenant, job, from_domain, share, began_at, complaints, delivered, low, volume, reason_id, reason, actor"

// Which holds there are, as conditions on the table.
const (
	isInForce    = "status IN ('held', 'trickle')"
	isUnreleased = "status != 'released'"
	// isRecent are those that a decision looks at: mail from before a release does not count, and what was released
	// before holdSpan has nothing to do with the mail that does.
	isRecent = "(status != 'released' OR version > toUInt64(toUnixTimestamp64Micro(now64(6) - INTERVAL 3 DAY)))"
)

// loadHolds reads the holds for which a condition holds, in the order of their ids.
func loadHolds(ctx context.Context, conn driver.Conn, which string) ([]hold, error) {
	rows, err := conn.Query(ctx, "SELECT "+holdColumns+", fromUnixTimestamp64Micro(toInt64(version), 'UTC') FROM holds FINAL WHERE "+which+" ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	var all []hold
	err = each(rows, "read holds", func() error {
		var h hold
		err := rows.Scan(&h.id, &h.status, &h.provider, &h.tenant, &h.job, &h.fromDomain, &h.share, &h.began, &h.complaints, &h.delivered, &h.low, &h.volume,
			&h.reasonID, &h.reason, &h.actor, &h.updated)
		all = append(all, h)
		return err
	})
	return all, err
}

func (h *hold) row(version time.Time) []any {
	return []any{
		h.id, uint64(version.UnixMicro()), h.status, h.provider, h.tenant, h.job, h.fromDomain, h.share, h.began, h.complaints, h.delivered, h.low, h.volume, //nolint:gosec // after 1970
		h.reasonID, h.reason, h.actor,
	}
}

// writeHolds writes rows of holds under a token.
func writeHolds(ctx context.Context, conn driver.Conn, token string, at time.Time, all []hold) error {
	rows := make([][]any, 0, len(all))
	for i := range all {
		rows = append(rows, all[i].row(at))
	}
	return insert(ctx, conn, token, "holds", []string{
		"id", "version", "status", "provider", "tenant", "job", "from_domain", "share", "began_at", "complaints", "delivered", "low", "volume", "reason_id", "reason", "actor",
	}, rows)
}

// suspect is a tenant at a provider with complaints.
type suspect struct{ provider, tenant string }

// part is a part of a suspect's mail: its scope is job, from_domain or tenant.
type part struct{ scope, value string }

// counted is what is known of one part.
type counted struct {
	complaints, delivered map[time.Time]uint64 // by hour of the delivery
	recipients            uint64
}

func (j *Holds) work(ctx context.Context, r *run, result *Result) error {
	result.DataTo = r.started
	all, err := loadHolds(ctx, j.Conn, isRecent)
	if err != nil {
		return err
	}
	suspects, err := j.complaints(ctx, r.started)
	if err != nil || len(suspects) == 0 {
		return err
	}
	if err := j.deliveries(ctx, r.started, suspects); err != nil {
		return err
	}
	maturity, err := j.maturity(ctx, r.started)
	if err != nil {
		return err
	}
	volumes, err := j.volumes(ctx, r.started)
	if err != nil {
		return err
	}
	overrides, err := loadOverrides(ctx, j.Conn, r.started)
	if err != nil {
		return err
	}
	reached, err := j.reached(ctx)
	if err != nil {
		return err
	}
	d := deciding{job: j, run: r, holds: all, volumes: volumes, maturity: maturity, reached: reached}
	for _, s := range slices.SortedFunc(maps.Keys(suspects), func(a, b suspect) int {
		return cmp.Or(strings.Compare(a.provider, b.provider), strings.Compare(a.tenant, b.tenant))
	}) {
		key := limits.Key{Provider: s.provider}
		mode := overrides.modeOf(key, j.Policy.ModeOf(s.provider))
		if mode == limits.Off || overrides.killed(key) != nil {
			continue
		}
		if err := d.decide(ctx, s, suspects[s], mode == limits.Active, result); err != nil {
			return err
		}
	}
	result.Keys = len(suspects)
	if err := insert(ctx, j.Conn, r.token("limit_log"), "limit_log", holdLogColumns, d.log); err != nil {
		return err
	}
	return writeHolds(ctx, j.Conn, r.token("holds"), r.started, d.changed)
}

// complaints reads the proven complaints of the last days by part and hour of the delivery, each message and
// recipient once, of tenants with enough of them to matter.
func (j *Holds) complaints(ctx context.Context, now time.Time) (map[suspect]map[part]*counted, error) {
	least := j.Policy.Thresholds.Hold.Recipients
	for _, own := range j.Policy.Providers {
		least = min(least, own.Thresholds.Hold.Recipients)
	}
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters{"since": micros(now.Add(-holdSpan)), "least": fmt.Sprint(least)}), `
WITH proven_once AS (
    SELECT provider, tenant, job, from_domain, recipient_key, delivered_at
    FROM attributions FINAL
    WHERE proven AND kind = 'complaint' AND provider != '' AND tenant != ''
        AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND delivered_at >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
    ORDER BY time, node, incarnation, seq
    LIMIT 1 BY message_id, recipient_index
)
SELECT provider, tenant, w.1 AS scope, w.2 AS value, groupArray(delivered_at), uniqExact(recipient_key)
FROM proven_once
ARRAY JOIN [('job', toString(job)), ('from_domain', toString(from_domain)), ('tenant', toString(tenant))] AS w
WHERE value != '' AND (provider, tenant) IN (SELECT provider, tenant FROM proven_once GROUP BY provider, tenant HAVING uniqExact(recipient_key) >= {least:UInt64})
GROUP BY provider, tenant, scope, value`)
	if err != nil {
		return nil, fmt.Errorf("read complaints: %w", err)
	}
	all := map[suspect]map[part]*counted{}
	err = each(rows, "read complaints", func() error {
		var s suspect
		var p part
		var times []time.Time
		c := &counted{complaints: map[time.Time]uint64{}, delivered: map[time.Time]uint64{}}
		if err := rows.Scan(&s.provider, &s.tenant, &p.scope, &p.value, &times, &c.recipients); err != nil {
			return err
		}
		for _, t := range times {
			c.complaints[t.UTC().Truncate(time.Hour)]++
		}
		if all[s] == nil {
			all[s] = map[part]*counted{}
		}
		all[s][p] = c
		return nil
	})
	return all, err
}

// deliveries adds the deliveries by hour. Those of a From domain are not known by tenant: a domain that two
// tenants use has the deliveries of both.
func (j *Holds) deliveries(ctx context.Context, now time.Time, suspects map[suspect]map[part]*counted) error {
	names := make([]string, 0, len(suspects))
	var jobs, domains []string
	for s, parts := range suspects {
		names = append(names, s.provider+"/"+s.tenant)
		for p := range parts {
			switch p.scope {
			case "job":
				jobs = append(jobs, p.value)
			case "from_domain":
				domains = append(domains, p.value)
			}
		}
	}
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(now.Add(-holdSpan).Truncate(time.Hour)), "names": warehouse.TextArray(distinct(names)), "jobs": warehouse.TextArray(distinct(jobs)), "domains": warehouse.TextArray(distinct(domains)),
	}), `
SELECT provider, tenant, 'tenant' AS scope, toString(tenant) AS value, toDateTime(toStartOfHour(ts), 'UTC') AS hour, sum(ok) FROM k1m
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND concat(provider, '/', tenant) IN {names:Array(String)}
GROUP BY provider, tenant, hour
UNION ALL
SELECT provider, tenant, 'job' AS scope, toString(job) AS value, toDateTime(ts, 'UTC') AS hour, sum(events) FROM jobs_1h
WHERE kind = 'delivered' AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND concat(provider, '/', tenant) IN {names:Array(String)} AND job IN {jobs:Array(String)}
GROUP BY provider, tenant, job, hour
UNION ALL
SELECT provider, '' AS tenant, 'from_domain' AS scope, toString(from_domain) AS value, toDateTime(ts, 'UTC') AS hour, sum(events) FROM senders_1h
WHERE signature = 0 AND kind = 'delivered' AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND from_domain IN {domains:Array(String)}
GROUP BY provider, from_domain, hour`)
	if err != nil {
		return fmt.Errorf("read deliveries: %w", err)
	}
	return each(rows, "read deliveries", func() error {
		var of suspect
		var p part
		var hour time.Time
		var n uint64
		if err := rows.Scan(&of.provider, &of.tenant, &p.scope, &p.value, &hour, &n); err != nil {
			return err
		}
		for s, parts := range suspects {
			if s.provider == of.provider && (s.tenant == of.tenant || of.tenant == "") && parts[p] != nil {
				parts[p].delivered[hour.UTC()] += n
			}
		}
		return nil
	})
}

// reached returns how far the deliveries by job and From domain go, which the job rollups fills hour by
// hour: complaints about later mail wait for it, or they would have nothing to be a share of.
func (j *Holds) reached(ctx context.Context) (at time.Time, err error) {
	if err := j.Conn.QueryRow(ctx, "SELECT toDateTime(least((SELECT max(ts) FROM jobs_1h), (SELECT max(ts) FROM senders_1h)), 'UTC') + INTERVAL 1 HOUR").Scan(&at); err != nil {
		return at, fmt.Errorf("read how far jobs_1h and senders_1h go: %w", err)
	}
	return at.UTC(), nil
}

// maturity reads how late complaints come: per provider, and for all together under the empty name, the
// share that has come so many hours after the delivery.
func (j *Holds) maturity(ctx context.Context, now time.Time) (map[string][]float64, error) {
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters{"since": micros(now.Add(-cohortSpan)), "until": micros(now.Add(-holdSpan))}), `
SELECT provider, toInt64(dateDiff('hour', delivered_at, time)) AS age, count()
FROM attributions FINAL
WHERE proven AND kind = 'complaint' AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
    AND delivered_at >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND delivered_at < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
GROUP BY provider, age`)
	if err != nil {
		return nil, fmt.Errorf("read how late complaints come: %w", err)
	}
	hours := int64(holdSpan / time.Hour)
	counts := map[string][]float64{}
	err = each(rows, "read how late complaints come", func() error {
		var provider string
		var age int64
		var n uint64
		if err := rows.Scan(&provider, &age, &n); err != nil {
			return err
		}
		if age >= hours {
			return nil
		}
		for _, name := range []string{provider, ""} {
			if counts[name] == nil {
				counts[name] = make([]float64, hours)
			}
			counts[name][max(0, age)] += float64(n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	curves := map[string][]float64{}
	for name, list := range counts {
		total := 0.0
		for _, n := range list {
			total += n
		}
		if total < cohortLeast {
			continue
		}
		curve := make([]float64, len(list))
		sum := 0.0
		for h, n := range list {
			curve[h] = (sum + n/2) / total // in the middle of the hour
			sum += n
		}
		curve[len(curve)-1] = 1
		curves[name] = curve
	}
	return curves, nil
}

// volumes reads what each provider took in the last day.
func (j *Holds) volumes(ctx context.Context, now time.Time) (map[string]float64, error) {
	rows, err := j.Conn.Query(with(ctx, clickhouse.Parameters{"since": micros(now.Add(-day))}), `
SELECT provider, toFloat64(sum(ok)) FROM k1m WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') GROUP BY provider`)
	if err != nil {
		return nil, fmt.Errorf("read the volume of providers: %w", err)
	}
	all := map[string]float64{}
	err = each(rows, "read the volume of providers", func() error {
		var provider string
		var n float64
		err := rows.Scan(&provider, &n)
		all[provider] = n
		return err
	})
	return all, err
}

// deciding is one run's decisions about holds.
type deciding struct {
	job      *Holds
	run      *run
	holds    []hold // as they are, those of this run included
	volumes  map[string]float64
	maturity map[string][]float64
	reached  time.Time // hours before it are known of every part
	changed  []hold
	log      [][]any
}

// holdEvidence is the JSON in limit_log.evidence of a hold: control.DecideHold makes the decision of it
// again.
type holdEvidence struct {
	Hold    control.HoldEvidence `json:"hold"`
	Policy  control.HoldPolicy   `json:"policy"`
	Matured float64              `json:"matured"`
	Low     float64              `json:"low"`
}

func (d *deciding) decide(ctx context.Context, s suspect, parts map[part]*counted, isActive bool, result *Result) error {
	now := d.run.started
	thresholds := &d.job.Policy.ThresholdsOf(s.provider).Hold
	since := now.Add(-holdSpan)
	var present *hold
	evidence := control.HoldEvidence{Maturity: d.maturity[s.provider]}
	if evidence.Maturity == nil {
		evidence.Maturity = d.maturity[""]
	}
	for i := range d.holds {
		h := &d.holds[i]
		if h.provider == s.provider && h.inForce() {
			evidence.HeldVolume += h.volume
		}
		if h.inForce() && h.actor == actorLoop && h.began.After(now.Add(-time.Hour)) {
			evidence.Holds++
		}
		if h.provider != s.provider || h.tenant != s.tenant {
			continue
		}
		if h.inForce() || h.status == "asked" || h.status == "exempt" {
			present = h
		}
		if h.status == "released" && h.updated.After(since) {
			since = h.updated.Truncate(time.Hour).Add(time.Hour)
		}
	}
	if present != nil && present.inForce() {
		evidence.HeldFor = max(now.Sub(present.began), time.Nanosecond)
		evidence.HeldVolume -= present.volume
	}
	evidence.Candidates = candidates(parts, since, d.reached, now)
	h, reason := control.DecideHold(thresholds, &evidence)
	var err error
	if h.Scope != "" && evidence.HeldFor == 0 { // the budget is about the part that would be held
		of := part{h.Scope, h.Value}
		evidence.Volume = d.volume(s.provider, parts[of])
		for i := range evidence.Candidates {
			if c := &evidence.Candidates[i]; c.Scope == of.scope && c.Value == of.value {
				if c.Exempt, err = d.exempt(ctx, s, of, since); err != nil {
					return err
				}
			}
		}
		h, reason = control.DecideHold(thresholds, &evidence)
	}
	var rule control.Rule
	var status string
	switch {
	case h.Action == control.HoldMail && evidence.HeldFor == 0:
		rule, status = RuleHold, "held"
	case h.Action == control.HoldTrickle && present.status != "trickle":
		rule, status = RuleHoldTrickle, "trickle"
	case h.Action == control.HoldAsk && (present == nil || present.status != "asked"):
		rule, status = RuleHoldAsk, "asked"
	case h.Action == control.HoldAlert && (present == nil || present.status != "exempt"):
		rule, status = RuleHoldAlert, "exempt"
	default:
		return nil
	}
	value := h.Value
	if h.Scope != "tenant" { // tenants may have jobs of one name, or share a From domain
		value = s.tenant + "/" + value
	}
	next := hold{
		id: fmt.Sprintf("%s/%s:%s", s.provider, h.Scope, value), status: status, provider: s.provider, tenant: s.tenant, share: h.Share, began: now,
		complaints: reason.Complaints, delivered: reason.Matured, low: reason.Low, volume: evidence.Volume, reason: reason.Text, actor: actorLoop,
	}
	switch h.Scope {
	case "job":
		next.job = h.Value
	case "from_domain":
		next.fromDomain = h.Value
	}
	if status == "trickle" {
		next.id, next.job, next.fromDomain, next.began, next.volume = present.id, present.job, present.fromDomain, present.began, present.volume
	}
	key := limits.Key{Provider: s.provider, Source: strings.TrimPrefix(next.id, s.provider+"/")}
	next.reasonID = fmt.Sprintf("%s@%d", key, d.run.generation)
	if !isActive {
		advised, err := d.advised(ctx, key)
		if err != nil || advised {
			return err
		}
	}
	more, err := json.Marshal(holdEvidence{Hold: evidence, Policy: *thresholds, Matured: reason.Matured, Low: reason.Low})
	if err != nil {
		return fmt.Errorf("write limit_log of %s: %w", key, err)
	}
	kind := kindChange
	if !isActive {
		kind = kindAdvice
		result.Advised++
	} else {
		result.Changes++
		d.changed = append(d.changed, next)
		d.holds = append(slices.DeleteFunc(d.holds, func(o hold) bool { return o.id == next.id }), next)
	}
	result.count(kind, string(rule))
	d.log = append(d.log, []any{
		next.reasonID, now, key.Provider, key.Source, d.run.generation, kind, "", status, string(rule), reason.Text, since, now,
		map[string]uint64{"ok": reason.Delivered, "complaints": reason.Complaints, "recipients": reason.Recipients},
		reason.Share, reason.Low, actorLoop, d.job.Policy.Hash, string(more),
	})
	d.job.Log.WarnContext(ctx, "complaints", "key", key.String(), "kind", kind, "rule", string(rule), "reason", reason.Text)
	return nil
}

// holdLogColumns are the columns of limit_log that a hold fills.
var holdLogColumns = []string{
	"id", "ts", "provider", "source", "generation", "kind", "mode_from", "mode_to", "rule_id", "reason_text", "window_from", "window_to",
	"n_by_class", "p", "wilson_lo", "actor", "policy_hash", "evidence",
}

// candidates returns the parts of a tenant's mail, the narrowest first and the tenant last.
func candidates(parts map[part]*counted, since, reached, now time.Time) []control.HoldCandidate {
	rank := map[string]int{"job": 0, "from_domain": 1, "tenant": 2}
	all := make([]control.HoldCandidate, 0, len(parts))
	for p, c := range parts {
		one := control.HoldCandidate{Scope: p.scope, Value: p.value, Recipients: c.recipients}
		for _, hour := range slices.SortedFunc(maps.Keys(union(c.delivered, c.complaints)), time.Time.Compare) {
			if hour.Before(since.Truncate(time.Hour)) || !hour.Before(reached) {
				continue
			}
			one.Hours = append(one.Hours, control.HoldHour{Age: int(now.Sub(hour) / time.Hour), Delivered: c.delivered[hour], Complaints: c.complaints[hour]})
		}
		all = append(all, one)
	}
	complaints := func(c *control.HoldCandidate) (sum uint64) {
		for _, h := range c.Hours {
			sum += h.Complaints
		}
		return sum
	}
	slices.SortFunc(all, func(a, b control.HoldCandidate) int {
		return cmp.Or(cmp.Compare(rank[a.Scope], rank[b.Scope]), cmp.Compare(complaints(&b), complaints(&a)), strings.Compare(a.Value, b.Value))
	})
	return all
}

func union(a, b map[time.Time]uint64) map[time.Time]uint64 {
	all := maps.Clone(a)
	for t, n := range b {
		all[t] += n
	}
	return all
}

// exempt reports whether the nodes would not hold most of what was delivered of a part, because the
// configuration says adaptive-hold no. It is asked about what is to be held alone.
func (d *deciding) exempt(ctx context.Context, s suspect, of part, since time.Time) (exempt bool, err error) {
	err = d.job.Conn.QueryRow(with(ctx, clickhouse.Parameters{
		"provider": s.provider, "tenant": s.tenant, "scope": of.scope, "value": of.value, "since": micros(since), "until": micros(d.run.started),
	}), `
SELECT toBool(2 * countIf(hold_exempt) > count()) FROM events
WHERE kind = 'delivered' AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND provider = {provider:String} AND tenant = {tenant:String}
    AND multiIf({scope:String} = 'job', job = {value:String}, {scope:String} = 'from_domain', from_domain = {value:String}, 1)`).Scan(&exempt)
	if err != nil {
		return false, fmt.Errorf("read which mail of %s is exempt: %w", s.tenant, err)
	}
	return exempt, nil
}

// volume returns the share of a provider's mail of the last day that a part was.
func (d *deciding) volume(provider string, c *counted) float64 {
	total := d.volumes[provider]
	if c == nil || total <= 0 {
		return 0
	}
	sum := 0.0
	for hour, n := range c.delivered {
		if hour.After(d.run.started.Add(-day)) {
			sum += float64(n)
		}
	}
	return min(1, sum/total)
}

// advised reports whether the same was advised in the last hour.
func (d *deciding) advised(ctx context.Context, key limits.Key) (bool, error) {
	var n uint64
	err := d.job.Conn.QueryRow(with(ctx, clickhouse.Parameters{
		"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source), "since": micros(d.run.started.Add(-adviceAgain)),
	}), `
SELECT count() FROM limit_log
WHERE provider = {provider:String} AND source = {source:String} AND kind = 'would_change' AND ts > fromUnixTimestamp64Micro({since:Int64}, 'UTC')`).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("read limit_log: %w", err)
	}
	return n > 0, nil
}
