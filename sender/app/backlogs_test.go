package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/seglog"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/orders"
)

// backlogOf returns the first row about a queue and job.
func backlogOf(gauges []event.QueueGauge, queue, job string) *event.QueueGauge {
	i := slices.IndexFunc(gauges, func(g event.QueueGauge) bool { return g.Queue == queue && g.Job == job })
	if i < 0 {
		return &event.QueueGauge{}
	}
	return &gauges[i]
}

func TestQueueGauges(t *testing.T) {
	s := newSink(t)
	p := operated(t, s)
	file := filepath.Join(p.dir, "config")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "<domain a.test>\n max-msg-rate 1/h\n</domain>\n<domain c.test>\n max-msg-rate 1/h\n</domain>\n"...)
	if p.config, _, err = config.Parse(file, text); err != nil {
		t.Fatal(err)
	}
	p.fill(300, "a.test", "j1")
	p.fill(200, "b.test", "j2")
	p.fill(100, "c.test", "j3")
	n := newNode(p.config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done, ready := make(chan error, 1), make(chan struct{})
	order := orders.Order{Kind: orders.Pause, Filter: orders.Filter{Queue: "b.test/*"}, Actor: "ann", Made: time.Now()}
	book, err := orders.Open(filepath.Join(p.dir, "spool", orders.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := book.Add(order); err != nil {
		t.Fatal(err)
	}
	go func() { done <- n.start(ctx, func([]string) { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the node did not start: %v", err)
	}
	var gauges []event.QueueGauge
	waitFor(t, "a binding limit and a session", func() bool {
		gauges = n.queueGaugesAt(time.Now().UTC(), 2)
		a := backlogOf(gauges, "a.test/mail1", "j1")
		return a.Limit != "" && a.Provider != "" && gauges[len(gauges)-1].Queues == 1
	})
	if len(gauges) != 3 {
		t.Fatalf("%d rows, want two and the rest: %+v", len(gauges), gauges)
	}
	a := backlogOf(gauges, "a.test/mail1", "j1")
	if a.Ready < 295 || a.Ready > 300 || a.Tenant != "shop" || a.VMTA != "mail1" || a.Queues != 1 || a.Estimated ||
		a.Provider != "a.test" || a.Source != "127.0.0.1" || a.LimitScope != "queue" || a.Limit != "max-msg-rate 1/h" || !strings.Contains(a.LimitBy, "config:") {
		t.Errorf("the queue that a limit binds: %+v", a)
	}
	b := backlogOf(gauges, "b.test/mail1", "j2")
	if b.Paused != 200 || b.Ready != 0 || b.LimitScope != "order" || !strings.Contains(b.Limit, "pause") || b.LimitBy != "ann" {
		t.Errorf("the paused queue: %+v", b)
	}
	rest := gauges[2]
	if rest.Queue != "" || rest.Queues != 1 || rest.Ready < 95 || rest.Ready > 100 || rest.ConfigHash == 0 || rest.Time.IsZero() {
		t.Errorf("the rest: %+v", rest)
	}
	n.keeper.Apply(&limits.Document{TTLSeconds: 600, Holds: []limits.Hold{{Provider: "b.test", Tenant: "shop", ReasonID: "h1"}}})
	held := event.QueueGauge{Provider: "b.test", Tenant: "shop"}
	if n.showHold(&held); held.LimitScope != "hold" || held.Limit != "tenant shop at b.test" || held.LimitBy != "loop, reason h1" {
		t.Errorf("held by the loop: %+v", held)
	}
	if err := n.writeQueueGauges(t.Context(), time.Now().UTC()); err != nil {
		t.Fatal(err)
	}
	status, err := admin.NewClient(filepath.Join(p.dir, "admin.sock")).Status(t.Context())
	if err != nil || status.QueueGaugeSeq != 4 {
		t.Errorf("the node's status is %+v, %v; want four queue gauges", status, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("the node stopped with %v", err)
	}
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamQueueGauge), 1, seglog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	var g event.QueueGauge
	if entry, ok, err := reader.TryNext(); err != nil || !ok || event.DecodeQueueGauge(entry.Data, &g) != nil || g.Queue != "a.test/mail1" {
		t.Errorf("the first record is %+v, %v, %v", g, ok, err)
	}
}
