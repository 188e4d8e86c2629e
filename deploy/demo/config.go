package demo

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"carom/deploy/receivers/scenarios"
	"carom/deploy/up"
)

//go:embed demo.conf
var configText string

//go:embed demo-policy.yaml
var policyText string

// domainSection is a <domain> section of the demo's configuration.
type domainSection struct {
	Domain, Provider       string
	Rate                   int // messages a second
	Connections            int
	MessagesPerConnection  int
	RetryRecipientsSeconds int
}

// sourceSection is a <virtual-mta> section.
type sourceSection struct{ Name, Address string }

// configData is what the configuration needs to know.
type configData struct {
	NodeName, FromDomain, BounceDomain, ComplaintsTo, TenantHeader string

	SMTP, DNS, ClickHouse string
	SMTPPort              int
	Sources               []sourceSection
	Domains               []domainSection
}

// writeConfig writes configuration, policy and keys for a node that sends to the receivers.
func (d *demo) writeConfig() error {
	data := newConfigData(d.plan, d.receivers.dns, d.receivers.smtpPort)
	var text bytes.Buffer
	if err := template.Must(template.New("demo").Parse(configText)).Execute(&text, data); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	keys := filepath.Join(d.dir, "keys")
	for _, name := range []string{"reference.key", "suppression.key"} {
		if err := up.WriteKey(filepath.Join(keys, name)); err != nil {
			return err
		}
	}
	dkim, err := newDKIMKey()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{filepath.Join(keys, "dkim.pem"), dkim, 0o600},
		{filepath.Join(d.dir, "carom.conf"), text.Bytes(), 0o640},
		{filepath.Join(d.dir, "policy.yaml"), []byte(policyText), 0o640},
	} {
		if err := os.WriteFile(file.name, file.data, file.mode); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

func newDKIMKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048) // what RFC 8301 3.2 asks of signers
	if err != nil {
		return nil, fmt.Errorf("make DKIM key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make DKIM key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// configuredShare is how far under the provider's first hidden limit the static limits lie: an
// operator who knew the providers as they were before the cut.
const configuredShare = 0.9

// newConfigData derives the configuration from the scenario. Each tenant of the load sends from a
// source of its own: 127.0.0.2, 127.0.0.3 and so on.
func newConfigData(p *plan, dns string, smtpPort int) configData {
	data := configData{
		NodeName: nodeName, FromDomain: fromDomain, BounceDomain: bounceDomain, ComplaintsTo: complaintsTo, TenantHeader: tenantHeader,
		SMTP: p.smtp, DNS: dns, ClickHouse: p.clickHouse, SMTPPort: smtpPort,
	}
	tenants := map[string]bool{}
	for _, l := range p.scenario.Load {
		tenants[l.Tenant] = true
	}
	for i, name := range slices.Sorted(maps.Keys(tenants)) {
		data.Sources = append(data.Sources, sourceSection{name, fmt.Sprintf("127.0.0.%d", i+2)})
	}
	for i := range p.scenario.Providers {
		r := &p.scenario.Providers[i]
		for _, domain := range r.Domains {
			data.Domains = append(data.Domains, domainSection{
				Domain: domain, Provider: r.Name, Rate: staticRate(r),
				// Limits are per queue, and each domain is one.
				Connections:            min(20, max(1, r.Connections(0)/len(r.Domains))),
				MessagesPerConnection:  r.MsgsPerConn,
				RetryRecipientsSeconds: 1 + max(2, int(r.Grey.MinRetry.D().Seconds())),
			})
		}
	}
	return data
}

// staticRate returns the rate that the configuration allows at a provider, in messages a second.
func staticRate(r *scenarios.Provider) int {
	return max(1, int(configuredShare*r.Limit(0)))
}
