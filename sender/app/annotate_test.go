package app

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// notes returns the annotations of the place's node.
func (p *place) notes() (all []event.Annotation) {
	p.t.Helper()
	reader, err := seglog.OpenReader(filepath.Join(p.dir, "events", event.StreamAnnotation), 1, seglog.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return all
		}
		var a event.Annotation
		if err := event.DecodeAnnotation(entry.Data, &a); err != nil {
			p.t.Fatal(err)
		}
		all = append(all, a)
	}
}

// runVersion runs the place's node as that version of carom.
func (p *place) runVersion(version string, f func()) {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	defer stop()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- RunFile(ctx, filepath.Join(p.dir, "config"), version, slog.New(slog.NewTextHandler(p.t.Output(), nil)), func([]string) { close(ready) })
	}()
	select {
	case <-ready:
		f()
	case err := <-done:
		p.t.Fatalf("the node did not start: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		p.t.Fatalf("the node stopped with %v", err)
	}
}

func TestAnnotations(t *testing.T) {
	p := operated(t, newSink(t))
	p.runVersion("1.0", func() {
		c := p.client()
		if _, err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.rewrite("max-smtp-out 2", "max-smtp-out 3")
		if _, err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	p.runVersion("1.0", func() {})
	p.runVersion("1.1", func() {})
	all := p.notes()
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.Name
	}
	if got := strings.Join(names, " "); got != "start reload reload stop start stop upgrade start stop" {
		t.Fatalf("annotations are %q", got)
	}
	for i, want := range map[int][]string{
		0: {"configuration ", "0 recipients"}, 1: {"the same as before", " by "}, 2: {", was ", " by "}, 3: {"as it was told to"}, 6: {"carom 1.1, was 1.0"},
	} {
		for _, part := range want {
			if !strings.Contains(all[i].Text, part) {
				t.Errorf("annotation %d, %s, says %q, want %q in it", i, all[i].Name, all[i].Text, part)
			}
		}
	}
	if !slices.Equal(all[0].Tags, []string{"1.0"}) || !slices.Equal(all[7].Tags, []string{"1.1"}) || len(all[2].Tags) != 1 {
		t.Errorf("tags are %q, %q and %q", all[0].Tags, all[7].Tags, all[2].Tags)
	}
}
