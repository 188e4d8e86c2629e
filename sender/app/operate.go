package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/account"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/deliver"
	"carom/sender/operate"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/spool"
	"carom/sender/throttle"
)

// newOperator puts in force what operators ordered.
func (n *node) newOperator() *operate.Operator {
	return operate.New(operate.Options{
		Store: n.orders, Queues: n.queues, Mail: n.spool, Recorder: n.recorder,
		Fill: func(e *event.Event, envelope *spool.Envelope, index uint32) {
			deliver.FillEnvelope(e, envelope, index, n.suppress)
		},
		VMTA: func(name string) (string, bool) {
			vmta, ok := n.config.Load().VMTA(name)
			if !ok {
				return "", false
			}
			return vmta.Name, true
		},
		Sourceless: func(s *queue.Status) bool { return s.DeferredWhy == deliver.AllSourcesDisabled(s.Name.String()) },
		Annotate:   func(ctx context.Context, name, text string) error { return n.annotate(ctx, name, text, "order") }, Logger: n.logger,
	})
}

// counted returns the recorder of deliveries, which counts what passes for those who ask.
func (n *node) counted() deliver.Recorder {
	n.traffic = operate.NewTraffic()
	return countingRecorder{n.recorder, n.traffic}
}

// countingRecorder is a recorder that counts traffic.
type countingRecorder struct {
	deliver.Recorder

	traffic *operate.Traffic
}

// Submit is part of deliver.Recorder.
func (r countingRecorder) Submit(e *event.Event) *account.Ticket {
	r.traffic.Count(e)
	return r.Recorder.Submit(e)
}

// Queues is part of admin.Node.
func (n *node) Queues() []admin.Queue {
	statuses := n.queues.Statuses()
	queues := make([]admin.Queue, len(statuses))
	for i := range statuses {
		queues[i] = n.describe(&statuses[i], clock.Now())
	}
	return queues
}

func (n *node) describe(s *queue.Status, now time.Time) admin.Queue {
	q := admin.Queue{
		Name: s.Name.String(), Recipients: s.Recipients, Due: s.Due, Sessions: s.Sessions, Mode: s.Mode.String(),
		DeferredUntil: s.DeferredUntil, Why: s.DeferredWhy, OldestArrival: s.OldestArrival.UTC(),
	}
	switch {
	case s.Paused: // there is no next try
	case !s.DeferredUntil.IsZero():
		q.NextTry = s.DeferredUntil
	case s.Due > 0:
		q.NextTry = now
	}
	if s.WaitsForSlot && q.Why == "" {
		q.Why = "a free connection"
	}
	n.operator.Describe(&q, s.Name)
	q.InPerMinute, q.OutPerMinute = n.traffic.LastMinute(s.Name)
	return q
}

// Messages is part of admin.Node.
func (n *node) Messages(f orders.Filter, limit int) ([]admin.Message, error) {
	return n.operator.Messages(f, limit)
}

// Explain is part of admin.Node.
func (n *node) Explain(name string) (*admin.Explanation, error) {
	domain, vmta, _ := strings.Cut(name, "/")
	if v, ok := n.config.Load().VMTA(vmta); ok {
		vmta = v.Name
	}
	q := n.queues.Queue(queue.Name{Domain: strings.ToLower(domain), VMTA: vmta})
	if q == nil {
		return nil, admin.ErrNoQueue
	}
	now := clock.Now()
	status := q.Status(now)
	paths := n.paths(q, now)
	waits := append([]string{}, n.operator.Waits(&status, now)...)
	for _, p := range paths {
		for _, b := range p.Limits {
			if b.Binds {
				waits = append(waits, fmt.Sprintf("for %s of %s %s, which is %s (set by %s)", b.Directive, b.Scope, b.Name, b.InForce, b.SetBy))
			}
		}
	}
	return &admin.Explanation{
		Queue: n.describe(&status, now), Waits: waits, Orders: n.operator.About(status.Name), Paths: paths,
	}, nil
}

// paths returns every limit on the ways that mail of the queue has taken; before the first, what the
// configuration says.
func (n *node) paths(q *queue.Queue, now time.Time) []admin.Path {
	taken := n.agent.Paths(q)
	if len(taken) == 0 {
		return n.configured(q.Name())
	}
	paths := make([]admin.Path, 0, len(taken))
	for _, p := range taken {
		path := admin.Path{Provider: p.Key.Provider, Source: p.Key.Source, Limits: []admin.Binding{}}
		for _, b := range n.throttle.Explain(p) {
			path.Limits = append(path.Limits, binding(&b, now))
		}
		paths = append(paths, path)
	}
	return paths
}

func binding(b *throttle.Binding, now time.Time) admin.Binding {
	shown := admin.Binding{
		Scope: b.Scope, Name: b.Name, Directive: b.Directive, Configured: b.Configured, InForce: b.InForce, Used: b.Used,
		Waiting: b.Waiting, SetBy: b.SetBy, Reason: b.Reason, Epoch: b.Epoch, Binds: b.Binds,
	}
	if b.Wait > 0 {
		shown.Next = now.Add(b.Wait).UTC()
	}
	if b.Expires != 0 {
		shown.Expires = now.Add(b.Expires).UTC()
	}
	return shown
}

// limitDirectives are the directives of a domain that limit what leaves how fast.
var limitDirectives = map[string]bool{
	"max-smtp-out": true, "max-msg-rate": true, "max-msg-per-connection": true, "max-connect-rate": true, "max-data-volume-rate": true,
	"adaptive-max-smtp-out": true, "adaptive-max-msg-rate": true, "adaptive-max-msg-per-connection": true,
	"source-ip-max-smtp-out": true, "source-ip-max-msg-rate": true, "source-ip-max-connect-rate": true, "source-ip-max-data-volume-rate": true,
}

// configured returns the limits of a queue as the configuration gives them.
func (n *node) configured(name queue.Name) []admin.Path {
	path := admin.Path{Limits: []admin.Binding{}}
	for _, s := range n.config.Load().Explain(name.Domain, name.VMTA) {
		byDefault := s.Origin == config.Pos{}
		if !limitDirectives[s.Name] || byDefault && (s.Value == "0" || s.Value == "unlimited") {
			continue
		}
		setBy := s.Origin.String()
		if byDefault {
			setBy = "default"
		}
		path.Limits = append(path.Limits, admin.Binding{
			Scope: "queue", Name: name.String(), Directive: s.Name, Configured: s.Value, InForce: s.Value, SetBy: setBy,
		})
	}
	return []admin.Path{path}
}
