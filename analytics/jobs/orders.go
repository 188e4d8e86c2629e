package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/analytics/control"
	"carom/analytics/policy"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

// ordered is the namespace of the ids of overrides (RFC 9562 section 5.5), made once: a key has one pin and
// one cancelled change at a time, and there is one kill switch.
var ordered = uuid.MustParse("6a1f3f0e-6b42-4a0a-9a52-0d4dcb1f7a55")

// Order is what an operator tells the loop. Actor, Reason and Expires are never empty.
type Order struct {
	Actor, Reason string
	Expires       time.Time
}

// Pin fixes or bounds the limit of a key; 0 is not pinned.
type Pin struct {
	RatePerSecond         float64 `json:"rate,omitempty"`
	Ceiling               float64 `json:"ceiling,omitempty"`
	Floor                 float64 `json:"floor,omitempty"`
	Connections           uint32  `json:"connections,omitempty"`
	MessagesPerConnection uint32  `json:"messages_per_connection,omitempty"`
}

// String says what is pinned.
func (p *Pin) String() string {
	var parts []string
	for _, v := range []struct {
		value float64
		words string
	}{
		{p.RatePerSecond, "rate %s/s"},
		{p.Ceiling, "at most %s/s"},
		{p.Floor, "at least %s/s"},
		{float64(p.Connections), "%s connections"},
		{float64(p.MessagesPerConnection), "%s messages per connection"},
	} {
		if v.value > 0 {
			parts = append(parts, fmt.Sprintf(v.words, strconv.FormatFloat(v.value, 'g', -1, 64)))
		}
	}
	return strings.Join(parts, ", ")
}

// ErrNothing is wrapped by the error of an order that takes back what is not there.
var ErrNothing = errors.New("there is nothing to take back")

// overrideRow is a row of overrides to be.
type overrideRow struct {
	kind, cancels string
	key           limits.Key
	pin           Pin
	order         Order
	cancelled     bool
}

// give writes an override. The next run of throttle obeys it.
func give(ctx context.Context, conn driver.Conn, o overrideRow) error {
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return err
	}
	id := uuid.NewSHA1(ordered, []byte(o.kind+"\x00"+o.key.String()))
	return insert(ctx, conn, fmt.Sprintf("overrides/%s/%d", id, now.UnixMicro()), "overrides", []string{
		"id", "version", "kind", "provider", "source", "rate", "ceiling", "floor", "connections", "messages_per_connection", "mode", "cancels",
		"actor", "reason", "created_at", "expires_at", "cancelled",
	}, [][]any{{
		id, uint64(now.UnixMicro()), o.kind, o.key.Provider, o.key.Source, o.pin.RatePerSecond, o.pin.Ceiling, o.pin.Floor, o.pin.Connections, //nolint:gosec // after 1970
		o.pin.MessagesPerConnection, "", o.cancels, o.order.Actor, o.order.Reason, now, orEpoch(o.order.Expires), o.cancelled,
	}})
}

// GivePin pins a key. It replaces the pin of before.
func GivePin(ctx context.Context, conn driver.Conn, key limits.Key, pin Pin, o Order) error {
	return give(ctx, conn, overrideRow{kind: "pin", key: key, pin: pin, order: o})
}

// Unpin takes the pin of a key back. The error wraps ErrNothing if it has none.
func Unpin(ctx context.Context, conn driver.Conn, key limits.Key, o Order) error {
	return takeBack(ctx, conn, "pin", key, o)
}

// takeBack writes that an override is cancelled.
func takeBack(ctx context.Context, conn driver.Conn, kind string, key limits.Key, o Order) error {
	row := overrideRow{kind: kind, key: key, order: o, cancelled: true}
	var n uint64
	if err := conn.QueryRow(with(ctx, clickhouse.Parameters{"kind": kind, "provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source)}), `
SELECT count(), any(rate), any(ceiling), any(floor), any(connections), any(messages_per_connection)
FROM overrides FINAL
WHERE toString(kind) = {kind:String} AND provider = {provider:String} AND source = {source:String} AND NOT cancelled AND expires_at > now64(6, 'UTC')`).
		Scan(&n, &row.pin.RatePerSecond, &row.pin.Ceiling, &row.pin.Floor, &row.pin.Connections, &row.pin.MessagesPerConnection); err != nil {
		return fmt.Errorf("read overrides: %w", err)
	}
	if n == 0 {
		return fmt.Errorf("%s: %w", kind, ErrNothing)
	}
	return give(ctx, conn, row)
}

// CancelChange takes the last change that the loop made at a key back: the next run puts the limit of before in force, and
// the loop waits until the order ends. It returns the id of that change. The error wraps ErrNothing if the
// last change is none of the loop's.
func CancelChange(ctx context.Context, conn driver.Conn, key limits.Key, o Order) (id string, err error) {
	var actor string
	err = conn.QueryRow(with(ctx, clickhouse.Parameters{"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source)}), `
SELECT argMax(id, (epoch, ts)), argMax(actor, (epoch, ts))
FROM limit_log
WHERE provider = {provider:String} AND source = {source:String} AND kind = 'change' AND epoch > 0
    AND id IN (SELECT reason_id FROM limit_state FINAL WHERE provider = {provider:String} AND source = {source:String})`).Scan(&id, &actor)
	switch {
	case err != nil:
		return "", fmt.Errorf("read limit_log: %w", err)
	case id == "":
		return "", fmt.Errorf("the loop changed nothing at %s: %w", key, ErrNothing)
	case actor != actorLoop:
		return "", fmt.Errorf("the last change at %s (%s) was %s's: %w", key, id, actor, ErrNothing)
	}
	return id, give(ctx, conn, overrideRow{kind: "cancel", key: key, cancels: id, order: o})
}

// Kill stops the loop everywhere: it writes the order and then hands it to the nodes itself, so that it
// works with no analytics process running. It waits for a run of throttle that is under way. Where the
// hand-out fails all the same, the order stands and the next run obeys it.
func Kill(ctx context.Context, conn driver.Conn, o Order, log *slog.Logger, version string) error {
	if err := give(ctx, conn, overrideRow{kind: "kill", order: o}); err != nil {
		return err
	}
	// Under the kill switch no policy has a say.
	run := &Throttle{Conn: conn, Policy: policy.Default(), Log: log, Version: version}
	run.announced.Store(run.Policy.Hash + 1) // it is not the policy of the jobs
	for {
		result, err := run.Run(ctx)
		if err != nil || !result.Skipped {
			return err
		}
		wait := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("another run of throttle has the turn: %w", ctx.Err())
		case <-wait.C:
		}
	}
}

// Unkill lets the loop act again. The error wraps ErrNothing if it may.
func Unkill(ctx context.Context, conn driver.Conn, o Order) error {
	return takeBack(ctx, conn, "kill", limits.Key{}, o)
}

// Released is a hold that was released.
type Released struct {
	ID       string `json:"id"`
	Provider string `json:"provider"`
	Tenant   string `json:"tenant"`
}

// ReleaseHolds releases the holds of a tenant, or the one with the id, and returns them. The error wraps
// ErrNothing if there is none. Mail of before does not count against the tenant any more.
func ReleaseHolds(ctx context.Context, conn driver.Conn, tenantOrID string, o Order) ([]Released, error) {
	all, err := loadHolds(ctx, conn, isUnreleased)
	if err != nil {
		return nil, err
	}
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return nil, err
	}
	released := []Released{}
	var changed []hold
	var log [][]any
	for _, h := range all {
		if h.status == "released" || h.id != tenantOrID && h.tenant != tenantOrID {
			continue
		}
		key := limits.Key{Provider: h.provider, Source: h.id[min(len(h.id), len(h.provider)+1):]}
		text := fmt.Sprintf("%s released it: %s. Complaints about mail that was delivered before do not count any more.", o.Actor, o.Reason)
		before := h.status
		h.status, h.share, h.actor, h.reason = "released", 1, o.Actor, o.Reason
		h.reasonID = fmt.Sprintf("%s@%d", key, now.UnixMicro())
		changed = append(changed, h)
		released = append(released, Released{ID: h.id, Provider: h.provider, Tenant: h.tenant})
		log = append(log, []any{
			h.reasonID, now, key.Provider, key.Source, uint64(0), kindChange, before, "released", string(RuleHoldRelease), text, now, now,
			map[string]uint64{},
			0.0, 0.0, o.Actor, uint64(0), "{}",
		})
		note := event.Annotation{Node: announcer, Time: now, Name: "hold-release", Text: "the mail of " + h.id + " is released: " + text, Tags: []string{h.provider, h.tenant, "hold"}}
		if _, err := warehouse.Annotate(ctx, conn, note); err != nil {
			return nil, err
		}
	}
	if len(changed) == 0 {
		return nil, fmt.Errorf("no mail of %q is held: %w", tenantOrID, ErrNothing)
	}
	token := fmt.Sprintf("release/%d/%s", now.UnixMicro(), tenantOrID)
	if err := insert(ctx, conn, token+"/log", "limit_log", holdLogColumns, log); err != nil {
		return nil, err
	}
	return released, writeHolds(ctx, conn, token, now, changed)
}

// Held is mail that is kept back, or was, as people are told of it.
type Held struct {
	ID         string    `json:"id"`
	Status     string    `json:"status"`
	Provider   string    `json:"provider"`
	Tenant     string    `json:"tenant,omitempty"`
	Job        string    `json:"job,omitempty"`
	FromDomain string    `json:"from_domain,omitempty"`
	Share      float64   `json:"share"` // of the mail, that goes out
	Since      time.Time `json:"since"`
	Actor      string    `json:"actor"`
	Reason     string    `json:"reason"`
}

// HeldMail returns the holds that are not released.
func HeldMail(ctx context.Context, conn driver.Conn) ([]Held, error) {
	all, err := loadHolds(ctx, conn, isUnreleased)
	if err != nil {
		return nil, err
	}
	held := []Held{}
	for _, h := range all {
		held = append(held, Held{
			ID: h.id, Status: h.status, Provider: h.provider, Tenant: h.tenant, Job: h.job, FromDomain: h.fromDomain,
			Share: h.share, Since: h.began, Actor: h.actor, Reason: h.reason,
		})
	}
	return held, nil
}

// InForce is an override that holds now, as people are told of it.
type InForce struct {
	Kind    string    `json:"kind"`          // pin, cancel, mode or kill
	Key     string    `json:"key,omitempty"` // empty for everywhere
	Pin     *Pin      `json:"pin,omitempty"`
	Mode    string    `json:"mode,omitempty"`
	Cancels string    `json:"cancels,omitempty"`
	Actor   string    `json:"actor"`
	Reason  string    `json:"reason"`
	Expires time.Time `json:"expires_at,omitzero"`
}

// Orders returns the overrides that hold now: the kill switch first, then modes, then those of keys.
func Orders(ctx context.Context, conn driver.Conn) ([]InForce, error) {
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return nil, err
	}
	o, err := loadOverrides(ctx, conn, now)
	if err != nil {
		return nil, err
	}
	all := []InForce{}
	add := func(kind string, one *override) {
		f := InForce{Kind: kind, Mode: string(one.mode), Cancels: one.cancels, Actor: one.actor, Reason: one.reason, Expires: zeroEpoch(one.expires)}
		switch {
		case one.key.Source != "":
			f.Key = one.key.String()
		case one.key.Provider != "":
			f.Key = one.key.Provider
		}
		if kind == "pin" {
			f.Pin = &Pin{
				RatePerSecond: value(one.pin.Rate), Ceiling: value(one.pin.Ceiling), Floor: value(one.pin.Floor),
				Connections: value(one.pin.Connections), MessagesPerConnection: value(one.pin.MessagesPerConnection),
			}
		}
		all = append(all, f)
	}
	for i := range o.kills {
		add("kill", &o.kills[i])
	}
	for i := range o.modes {
		add("mode", &o.modes[i])
	}
	for _, list := range []struct {
		kind string
		of   map[limits.Key]*override
	}{{"pin", o.pins}, {"cancel", o.cancels}} {
		for _, key := range slices.SortedFunc(maps.Keys(list.of), limits.Key.Compare) {
			add(list.kind, list.of[key])
		}
	}
	return all, nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// HoldAgain decides about a hold again from the evidence of its row in limit_log.
func HoldAgain(evidence []byte) (action string, matured, low float64, err error) {
	var e holdEvidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return "", 0, 0, fmt.Errorf("evidence of a hold: %w", err)
	}
	h, reason := control.DecideHold(&e.Policy, &e.Hold)
	return string(h.Action), reason.Matured, reason.Low, nil
}
