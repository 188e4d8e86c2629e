package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/event"
)

// An import that is given a node's configuration keeps recipients as the node does.
func TestImportHidesWhatTheNodeHides(t *testing.T) {
	for _, tc := range []struct{ policy, want string }{
		{"", "ann@a.test"},
		{"privacy-policy redact xxx", "xxx@a.test"},
	} {
		t.Run("policy "+strings.ReplaceAll(tc.policy, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			key, file := filepath.Join(dir, "key"), filepath.Join(dir, "carom.conf")
			if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			text := "host-name a.test\nsmtp-listener 127.0.0.1:25\n<spool " + dir + "/spool>\n</spool>\n<event-log " + dir + "/log>\n" + tc.policy +
				"\n</event-log>\n<feed " + dir + "/feed>\nsuppression-key-file " + key + "\n</feed>\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			node, err := importNode(file)
			if err != nil {
				t.Fatal(err)
			}
			e := event.Event{Recipient: "ann@a.test", RecipientDomain: "a.test"}
			if node.Hide != nil {
				node.Hide(&e)
			}
			if e.Recipient != tc.want || !strings.HasPrefix(node.SuppressionKey, "0123456789") {
				t.Errorf("recipient %q, key %q; want %q and the key of the file", e.Recipient, node.SuppressionKey, tc.want)
			}
		})
	}
}
