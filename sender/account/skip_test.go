package account

import (
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/event"
)

// TestSkip: what Skip names is left out, whatever the record types say.
func TestSkip(t *testing.T) {
	dir := t.TempDir()
	f, _ := file(t, FileOptions{
		Path:          filepath.Join(dir, "acct.csv"),
		RecordOptions: RecordOptions{Records: []string{"d"}, Skip: func(e *event.Event) bool { return e.Queue == "quiet.test/v" }},
	})
	quiet, loud := delivered(), delivered()
	quiet.Queue, loud.Queue = "quiet.test/v", "loud.test/v"
	write(t, f, quiet, loud)
	files := listing(t, dir)
	if len(files) != 1 {
		t.Errorf("%d files", len(files))
	}
	for _, text := range files {
		if strings.Contains(text, "quiet.test") || !strings.Contains(text, "loud.test") {
			t.Errorf("the file holds %s", text)
		}
	}
}
