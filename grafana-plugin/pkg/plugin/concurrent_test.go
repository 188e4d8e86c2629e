//go:build unix

package plugin_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
)

// TestDownAtOnce asks a data source whose ClickHouse is down by many at once: each gets its sentence.
func TestDownAtOnce(t *testing.T) {
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := silent.Addr().String()
	_ = silent.Close()
	d, err := inProcess(t, map[string]any{"address": address, "protocol": "http", "user": "alice"}, "s3cret-word")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			request := &backend.QueryDataRequest{}
			for i := range 3 {
				request.Queries = append(request.Queries, backend.DataQuery{
					RefID: fmt.Sprint(i), JSON: []byte(`{"view":"deliverability"}`), TimeRange: backend.TimeRange{From: until.Add(-3600e9), To: until},
				})
			}
			response, err := d.QueryData(t.Context(), request)
			if err != nil || len(response.Responses) != 3 {
				t.Errorf("%v, %d responses", err, len(response.Responses))
				return
			}
			for _, r := range response.Responses {
				if r.Error == nil || !strings.Contains(r.Error.Error(), "refuses the connection") || r.ErrorSource != backend.ErrorSourceDownstream {
					t.Errorf("error %v of %s", r.Error, r.ErrorSource)
				}
			}
			if r, err := d.CheckHealth(t.Context(), &backend.CheckHealthRequest{}); err != nil || r.Status != backend.HealthStatusError || strings.Contains(r.Message, "s3cret") {
				t.Errorf("health: %v %v", r, err)
			}
		})
	}
	group.Wait()
}

// TestSettings are refused with all their mistakes.
func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		name     string
		settings map[string]any
		want     []string
	}{
		{"nothing", nil, []string{"set the address of ClickHouse"}},
		{"much", map[string]any{"address": "h:1", "protocol": "smtp", "maxRows": -1, "timeoutSeconds": 3600, "tlsCaCert": "x"}, []string{`protocol "smtp"`, "row limit -1", "time limit 3600 s", "no use without TLS"}},
		{"no certificate", map[string]any{"address": "h:1", "tls": true, "tlsCaCert": "x"}, []string{"no certificate in PEM form"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := inProcess(t, tc.settings, "")
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
		})
	}
	for _, address := range []string{"clickhouse", "clickhouse:9000", "::1", "[::1]:9000"} {
		if _, err := inProcess(t, map[string]any{"address": address}, ""); err != nil {
			t.Errorf("address %q: %v", address, err)
		}
	}
}
