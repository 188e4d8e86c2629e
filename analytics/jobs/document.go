package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/limits"
)

// document returns what every node is told beside its leases, as the column of leases holds it: where the
// loop is off, scoped limits, held mail, and whose mail suspended keys are tried with. It is empty where
// there is nothing to tell.
func (t *Throttle) document(ctx context.Context, p *pass, snapshot *windows.Snapshot, scoped []limits.ScopedLimit) (string, error) {
	d := struct {
		Scoped   []limits.ScopedLimit  `json:"scoped,omitempty"`
		Holds    []limits.Hold         `json:"holds,omitempty"`
		Modes    []limits.ProviderMode `json:"modes,omitempty"`
		Canaries []limits.CanaryTenant `json:"canaries,omitempty"`
	}{Scoped: scoped, Modes: p.modes()}
	holds, err := loadHolds(ctx, t.Conn, isInForce)
	if err != nil {
		return "", err
	}
	for _, h := range holds {
		if p.overrides.modeOf(limits.Key{Provider: h.provider}, p.policy.ModeOf(h.provider)) == limits.Active {
			d.Holds = append(d.Holds, limits.Hold{
				Provider: h.provider, Tenant: h.tenant, Job: h.job, FromDomain: h.fromDomain, Trickle: h.share, ReasonID: h.reasonID,
			})
		}
	}
	if d.Canaries, err = t.canaries(ctx, p, snapshot); err != nil {
		return "", err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("write the limits document: %w", err)
	}
	if string(text) == "{}" {
		return "", nil
	}
	return string(text), nil
}

// modes lists how far the loop goes: everywhere, unless it only advises, and at the providers where that is
// different. Where it is active it has the say over the backoff mode of the nodes, also before a key has
// its first lease.
func (p *pass) modes() []limits.ProviderMode {
	if p.overrides.killed(limits.Key{Provider: limits.EveryProvider}) != nil {
		return []limits.ProviderMode{{Provider: limits.EveryProvider, Mode: limits.Off}}
	}
	everywhere := p.overrides.modeOf(limits.Key{Provider: limits.EveryProvider}, p.policy.Mode)
	var all []limits.ProviderMode
	if everywhere != limits.Advise {
		all = append(all, limits.ProviderMode{Provider: limits.EveryProvider, Mode: everywhere})
	}
	providers := map[string]bool{}
	for name := range p.policy.Providers {
		providers[name] = true
	}
	for _, orders := range [][]override{p.overrides.kills, p.overrides.modes} {
		for i := range orders {
			providers[orders[i].key.Provider] = true
		}
	}
	delete(providers, limits.EveryProvider)
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		mode := p.overrides.modeOf(limits.Key{Provider: name}, p.policy.ModeOf(name))
		if p.overrides.killed(limits.Key{Provider: name}) != nil {
			mode = limits.Off
		}
		if mode != everywhere {
			all = append(all, limits.ProviderMode{Provider: name, Mode: mode})
		}
	}
	return all
}

// canaries names, for each suspended key, the tenant with the best score at the provider among those that
// sent by the key in the last day.
func (t *Throttle) canaries(ctx context.Context, p *pass, snapshot *windows.Snapshot) ([]limits.CanaryTenant, error) {
	suspended := keysWhere(p.states, func(s *remembered) bool { return s.Control.Mode == control.Suspended && s.Control.Epoch > 0 })
	suspended = slices.DeleteFunc(suspended, func(key limits.Key) bool { return snapshot.Keys[key] == nil })
	if len(suspended) == 0 {
		return nil, nil
	}
	rows, err := t.Conn.Query(with(ctx, windows.WithKeys(clickhouse.Parameters{}, suspended)), `
SELECT m.provider, m.source, argMax(m.tenant, (s.score, m.tenant))
FROM (
    SELECT provider, source, tenant FROM k1m
    WHERE ts >= now() - INTERVAL 1 DAY AND tenant != '' AND `+windows.IsKey+`
    GROUP BY provider, source, tenant
) AS m
INNER JOIN (
    SELECT provider, name, argMax(score, ts) AS score FROM reputation WHERE kind = 'tenant' AND ts >= now() - INTERVAL 1 DAY GROUP BY provider, name
) AS s ON m.provider = s.provider AND m.tenant = s.name
GROUP BY m.provider, m.source
ORDER BY m.provider, m.source`)
	if err != nil {
		return nil, fmt.Errorf("read the tenants of suspended keys: %w", err)
	}
	var all []limits.CanaryTenant
	err = each(rows, "read the tenants of suspended keys", func() error {
		var c limits.CanaryTenant
		err := rows.Scan(&c.Provider, &c.Source, &c.Tenant)
		all = append(all, c)
		return err
	})
	return all, err
}
