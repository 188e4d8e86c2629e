package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/schemas/limits"
	"carom/schemas/service"
)

func TestShowSettingsShowsTheLeases(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	text := fmt.Sprintf(`host-name mail.example.com
smtp-listener 127.0.0.1:0
<virtual-mta v>
    smtp-source-host 192.0.2.1 v.example.com
    source-public-ip 198.51.100.1
</virtual-mta>
<domain gm.test>
    provider google
    max-msg-rate 10/s
    adaptive-max-msg-rate 40/s
</domain>
<spool %[1]s/spool>
</spool>
<event-log %[1]s/events>
</event-log>
<feed %[1]s/feed>
</feed>
`, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	show := func() string {
		var out, errs bytes.Buffer
		if err := SettingsCommand(t.Context(), []string{"gm.test/v", "-c", file}, service.IO{Out: &out, Err: &errs}); err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
		return out.String()
	}
	if got := show(); strings.Contains(got, "leases") || !strings.Contains(got, "10/s") || !strings.Contains(got, "40/s") {
		t.Errorf("without a document:\n%s", got)
	}
	if err := os.MkdirAll(filepath.Join(dir, "feed"), 0o700); err != nil {
		t.Fatal(err)
	}
	lease := limits.Lease{Provider: "google", Source: "198.51.100.1", Epoch: 7, RatePerSecond: 12.5, Connections: 4, ReasonID: "r7", NotAfter: time.Now().Add(time.Hour)}
	other := lease
	other.Provider, other.ReasonID = "yahoo", "r8"
	d := &limits.Document{Format: limits.Format, Generation: 1, IssuedAt: time.Now(), TTLSeconds: 600, Leases: []limits.Lease{lease, other}}
	if err := limits.Save(filepath.Join(dir, "feed", limits.FileName), d); err != nil {
		t.Fatal(err)
	}
	got := show()
	for _, want := range []string{"leases of the control loop for gm.test/v", "google/198.51.100.1", "rate 12.5/s, connections 4, epoch 7, reason r7, ends in"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "r8") {
		t.Errorf("the lease of another provider is shown:\n%s", got)
	}
}
