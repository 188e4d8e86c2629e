package webhook_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/analytics/webhook"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNew(t *testing.T) {
	good := file(t, "0123456789abcdef")
	for _, tc := range []struct{ name, secret, ca, want string }{
		{"no secret", filepath.Join(t.TempDir(), "none"), "", "none"},
		{"a short secret", file(t, "short\n"), "", "16 to 4096 bytes"},
		{"a whole disk", file(t, strings.Repeat("x", 5000)), "", "16 to 4096 bytes"},
		{"no certificates", good, filepath.Join(t.TempDir(), "none"), "none"},
		{"something else", good, file(t, "no PEM"), "no certificate in PEM"},
	} {
		if _, err := webhook.New("https://x.test/", tc.secret, tc.ca, "test"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// An address may hold a secret in its query, and an error is stored and shown.
func TestErrorsDoNotShowTheQuery(t *testing.T) {
	const address = "http://127.0.0.1:1/hook?token=hidden"
	client, err := webhook.New(address, file(t, "0123456789abcdef"), "", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Post(t.Context(), &webhook.Complaint{}); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("Post to nobody: %v", err)
	}
	if got := webhook.Endpoint(address); got != "http://127.0.0.1:1/hook" {
		t.Errorf("Endpoint = %q", got)
	}
}

// A server without a known certificate is told nothing.
func TestUnknownCertificate(t *testing.T) {
	asked := false
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	server.StartTLS()
	defer server.Close()
	client, err := webhook.New(server.URL, file(t, "0123456789abcdef"), "", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Post(t.Context(), &webhook.Complaint{}); err == nil || asked {
		t.Errorf("Post to a server that nobody knows: %v, asked: %v", err, asked)
	}
}

func TestWait(t *testing.T) {
	for n, want := range map[uint32]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 11: time.Hour, 4_000_000_000: time.Hour} {
		if got := webhook.Wait(n); got != want {
			t.Errorf("Wait(%d) = %s, want %s", n, got, want)
		}
	}
}
