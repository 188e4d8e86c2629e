package app

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/ingest/ship"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/warehouse/chtest"
)

func TestQuarantineCommand(t *testing.T) {
	_, url := chtest.StartWithSchema(t)
	dir := t.TempDir()
	run := func(what string, more ...string) (string, error) {
		var out bytes.Buffer
		err := QuarantineCommand(t.Context(), append([]string{what, "--event-log", dir, "--url", url}, more...), service.IO{Out: &out, Err: t.Output()})
		return out.String(), err
	}
	if out, err := run("list"); err != nil || !strings.Contains(out, "empty") {
		t.Errorf("list of nothing: %q, %v", out, err)
	}
	if out, err := run("retry", "--json"); err != nil || strings.TrimSpace(out) != "[]" {
		t.Errorf("retry of nothing: %q, %v", out, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "quarantine"), 0o700); err != nil {
		t.Fatal(err)
	}
	note := event.EncodeAnnotation(nil, &event.Annotation{FormatVersion: 1, Time: time.Now(), Name: "note"})
	for name, q := range map[string]ship.Quarantined{
		"a": {Node: "n1", Incarnation: event.ID{1}, Stream: event.StreamAnnotation, Seq: 1, Reason: "once \x1b[2J refused", Record: note, Time: time.Now()},
		"b": {Node: "n1", Incarnation: event.ID{1}, Stream: event.StreamAnnotation, Seq: 2, Reason: "no annotation", Record: []byte{0}, Time: time.Now()},
		"c": {Node: "n1", Incarnation: event.ID{1}, Stream: event.StreamEvent, Seq: 5, Last: 9, Reason: "damaged", Time: time.Now()},
	} {
		data, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "quarantine", name+".json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := run("list"); err != nil || strings.Count(out, "held") != 2 || !strings.Contains(out, "5-9") || strings.Contains(out, "\x1b") {
		t.Errorf("list: %q, %v", out, err)
	}
	out, err := run("retry")
	if err == nil || !strings.Contains(out, "stored") || !strings.Contains(out, "refused") || !strings.Contains(out, "lost") {
		t.Errorf("retry: %q, %v, want one stored, one refused, one lost, and an error", out, err)
	}
	out, err = run("list", "--json")
	var left []struct {
		Seq   uint64 `json:"seq"`
		State string `json:"state"`
	}
	if jsonErr := json.Unmarshal([]byte(out), &left); err != nil || jsonErr != nil || len(left) != 2 || left[0].Seq != 2 || left[1].State != "lost" {
		t.Errorf("list: %q, %v, %v, want the two that are left", out, err, jsonErr)
	}
	if _, err := run("drop"); service.ExitStatus(err) != 2 {
		t.Errorf("drop: %v, want an operator's mistake", err)
	}
}
