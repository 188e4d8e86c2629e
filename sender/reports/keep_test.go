package reports

import (
	"testing"
	"time"
)

// TestKeepHeaders: events have the headers of the quoted message that are asked for, and what the
// report says of itself stays.
func TestKeepHeaders(t *testing.T) {
	p := New(keys(t, ours), key, nil)
	p.KeepHeaders([]string{"From", "subject", "X-None", "User-Agent"})
	for _, name := range []string{"complaint", "bounce"} {
		f, err := p.Process(t.Context(), sample(t, name, "REFERENCE", token(t, ours, recipient, time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		headers := one(t, f).Headers
		if headers["From"] == "" {
			t.Errorf("%s: headers %q", name, headers)
		}
		if _, ok := headers["X-None"]; ok {
			t.Errorf("%s: a header that is not there: %q", name, headers)
		}
		if name == "complaint" && (headers["User-Agent"] != "carom-receivers/1.0" || headers["arf_Version"] != "1") {
			t.Errorf("%s: what the report says of itself: %q", name, headers)
		}
	}
}
