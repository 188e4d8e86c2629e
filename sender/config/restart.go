package config

import (
	"crypto/x509"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// NeedsRestart returns the names of the directives and sections in which next differs from c and
// that a running node cannot change: it goes on with what it started with.
func (c *Config) NeedsRestart(next *Config) []string {
	var names []string
	for _, part := range []struct {
		name string
		of   func(*Config) any
	}{
		{"host-name", func(c *Config) any { return c.HostNames[0] }},
		{"smtp-listener", func(c *Config) any { return c.Listeners }},
		{"smtp-server-tls-*", func(c *Config) any { return c.ServerTLS }},
		{"name-server", func(c *Config) any { return c.NameServers }},
		{"total-max-smtp-out", func(c *Config) any { return c.TotalMaxSMTPOut }},
		{"total-max-smtp-in", func(c *Config) any { return c.TotalMaxSMTPIn }},
		{"<source-group>", func(c *Config) any { return c.sourceGroupOrder }},
		{"memory-pool-buffer-size", func(c *Config) any { return c.MemoryPoolBufferSize }},
		{"process-user", func(c *Config) any { return c.ProcessUser }},
		{"run-as-root", func(c *Config) any { return c.RunAsRoot }},
		{"reference-key", func(c *Config) any { return c.ReferenceKeys }},
		{"<spool>", func(c *Config) any { return c.Spools }},
		{"<acct-file>", func(c *Config) any { return c.AcctFiles }},
		{"<rejectlog-file>", func(c *Config) any { return c.RejectLogs }},
		{"log-bounces", func(c *Config) any { return c.LogBounces }},
		{"<event-log>", func(c *Config) any { return c.EventLog }},
		{"<feed>", func(c *Config) any { return c.Feed }},
		{"<admin>", func(c *Config) any { return c.Admin }},
		{"cold-virtual-mta", func(c *Config) any { return c.hasColdVMTAs() }},
	} {
		if written(reflect.ValueOf(part.of(c))) != written(reflect.ValueOf(part.of(next))) {
			names = append(names, part.name)
		}
	}
	return names
}

// hasColdVMTAs reports whether some vmta has a cold one: then the node counts.
func (c *Config) hasColdVMTAs() bool {
	return slices.ContainsFunc(c.vmtaOrder, func(m *VMTA) bool { return len(m.ColdVMTAs) > 0 })
}

// written returns a text that is the same for what was written the same, wherever it stood. Secrets are in it.
func written(v reflect.Value) string {
	var b strings.Builder
	write(&b, v)
	return b.String()
}

func write(b *strings.Builder, v reflect.Value) {
	if !v.IsValid() {
		return
	}
	if v.CanInterface() {
		switch x := v.Interface().(type) {
		case Pos:
			return
		case Secret:
			b.WriteString(x.Reveal())
			return
		case *regexp.Regexp:
			if x != nil {
				b.WriteString(x.String())
			}
			return
		case CertificateFile:
			b.WriteString(x.Path + " " + x.password.Reveal())
			return
		case fmt.Stringer: // before its parts: a netip.Prefix, an address, a size
			if v.Kind() != reflect.Pointer && v.Type().PkgPath() != reflect.TypeFor[Config]().PkgPath() {
				b.WriteString(x.String())
				return
			}
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			b.WriteString("nil")
			return
		}
		write(b, v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			b.WriteByte('[')
			write(b, v.Index(i))
			b.WriteByte(']')
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Type != reflect.TypeFor[*x509.CertPool]() {
				b.WriteString(f.Name + "=")
				write(b, v.Field(i))
				b.WriteByte(';')
			}
		}
	default:
		fmt.Fprint(b, v)
	}
}
