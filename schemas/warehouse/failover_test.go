package warehouse_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// front returns a server that hands everything on to the engine, not started yet.
func front(t *testing.T, engine *chtest.Server) *httptest.Server {
	t.Helper()
	target, err := url.Parse(engine.URL())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	t.Cleanup(server.Close)
	return server
}

// The native protocol takes the same way through clickhouse-go, but the engine does not speak it.
func TestSeveralAddresses(t *testing.T) {
	engine := chtest.Start(t)
	first, gone := front(t, engine), front(t, engine)
	first.Start()
	gone.Start()
	gone.Close()
	at := func(s *httptest.Server) string { return s.Listener.Addr().String() }

	conn, err := warehouse.Open(t.Context(), "http://"+at(gone)+","+at(first)+","+engine.Addr()+"/default", warehouse.Options{})
	if err != nil {
		t.Fatalf("with a first address that is dead: %v", err)
	}
	defer conn.Close()
	one[uint8](t, conn, "SELECT 1")

	first.CloseClientConnections()
	first.Close()
	// Each connection of the pool may notice for itself; there is one.
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a query over a connection whose server is gone is no error")
	}
	if got := one[uint8](t, conn, "SELECT 7"); got != 7 {
		t.Errorf("after the second died, the third answers %d, want 7", got)
	}

	if _, err := warehouse.Open(t.Context(), "http://"+at(gone)+","+at(first)+"/default", warehouse.Options{}); err == nil ||
		!strings.Contains(err.Error(), at(gone)) || !strings.Contains(err.Error(), at(first)) || strings.Contains(err.Error(), "\n") {
		t.Errorf("with dead addresses only: %v, want one line that names both", err)
	}
}

func TestTLS(t *testing.T) {
	engine := chtest.Start(t)
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	client := "&cert_file=" + write("client.pem", "CERTIFICATE", certificate) + "&key_file=" + write("client.key", "PRIVATE KEY", private)

	server := front(t, engine)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	ca := "?ca_file=" + write("ca.pem", "CERTIFICATE", server.Certificate().Raw)
	base := "https://" + server.Listener.Addr().String() + "/default"
	for _, tc := range []struct{ name, url, want string }{
		{"the system's authorities do not know it", base, "certificate"},
		{"no certificate of the client", base + ca, "certificate"},
		{"another name", base + ca + client + "&server_name=elsewhere.test", "elsewhere.test"},
		{"everything right", base + ca + client, ""},
		{"by a name that the certificate has", base + ca + client + "&server_name=example.com", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := warehouse.Open(t.Context(), tc.url, warehouse.Options{})
			if err == nil {
				defer conn.Close()
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Open: %v, want an error with %q", err, tc.want)
			}
		})
	}
}
