package scenarios

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// textClasses are the keys of Provider.Texts and the first digits that each may start with.
var textClasses = map[string]string{
	"OK": "2", "RATE": "45", "CONN": "45", "MSGC": "45", "BLOCK": "45", "GREY": "4", "UNAV": "4", "USER": "5",
}

var (
	replyLine   = regexp.MustCompile(`^[2-5][0-9][0-9][ -].*[^ ]`)
	placeholder = regexp.MustCompile(`\{[a-z]*\}`)
	hostName    = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

const (
	maxReplyLine = 500 // RFC 5321 4.5.3.1.5: 512 octets with CRLF, less what {ip} and {mx} may add
	maxProviders = 250 // providers and hosts are numbered in the last two octets of 127.0.x.y
	maxHosts     = 250
)

func (p *problems) validate(s *Scenario) {
	if s.Version != 1 {
		p.addf("version", "is %d, this carom reads version 1", s.Version)
	}
	if s.Scale < 0 || s.Scale > 100 {
		p.addf("scale", "is %d, want 1 to 100", s.Scale)
	}
	if len(s.Providers) == 0 {
		p.addf("providers", "is empty")
	}
	if len(s.Providers) > maxProviders {
		p.addf("providers", "has %d entries, at most %d have addresses", len(s.Providers), maxProviders)
	}
	domains, names := map[string]string{}, map[string]string{}
	for i := range s.Providers {
		provider := &s.Providers[i]
		path := fmt.Sprintf("providers[%d]", i)
		if provider.Name == "" {
			p.addf(path+".name", "is missing")
		} else if other, ok := names[provider.Name]; ok {
			p.addf(path+".name", "%q is the name of %s too", provider.Name, other)
		}
		names[provider.Name] = path
		for j, d := range provider.Domains {
			at := fmt.Sprintf("%s.domains[%d]", path, j)
			p.host(at, d)
			if other, ok := domains[d]; ok {
				p.addf(at, "%q is at %s already", d, other)
			}
			domains[d] = at
		}
		p.provider(path, provider)
	}
	for i := range s.Load {
		p.load(fmt.Sprintf("load[%d]", i), &s.Load[i], domains)
	}
	for i, w := range s.Nodes.Weights {
		p.atLeast(fmt.Sprintf("nodes.weights[%d]", i), w, 0)
	}
	for i, f := range s.Faults {
		if f.Kind == "" {
			p.addf(fmt.Sprintf("faults[%d].kind", i), "is missing")
		}
	}
}

func (p *problems) provider(path string, v *Provider) {
	if len(v.Domains) == 0 {
		p.addf(path+".domains", "is empty")
	}
	if len(v.MX) == 0 || len(v.MX) > maxHosts {
		p.addf(path+".mx", "has %d hosts, want 1 to %d", len(v.MX), maxHosts)
	}
	for i, host := range v.MX {
		p.host(fmt.Sprintf("%s.mx[%d]", path, i), host)
	}
	ats := make([]Duration, 0, len(v.Rate))
	for i, r := range v.Rate {
		ats = append(ats, r.At)
		p.atLeast(fmt.Sprintf("%s.rate[%d].per_s", path, i), r.PerSecond, 0)
	}
	p.schedule(path+".rate", ats)
	ats = ats[:0]
	for i, c := range v.Conc {
		ats = append(ats, c.At)
		p.atLeast(fmt.Sprintf("%s.conc[%d].n", path, i), float64(c.N), 0)
	}
	p.schedule(path+".conc", ats)
	p.fraction(path+".diurnal.amp", v.Diurnal.Amp)
	if v.Diurnal.Amp > 0 && v.Diurnal.Period == 0 {
		p.addf(path+".diurnal.period", "is missing")
	}
	p.atLeast(path+".burst_s", v.BurstSeconds, 0)
	p.atLeast(path+".msgs_per_conn", float64(v.MsgsPerConn), 0)
	if v.SilentClose && v.MsgsPerConn == 0 {
		p.addf(path+".silent_close", "needs msgs_per_conn")
	}
	p.interval(path+".latency_ms", v.LatencyMS)
	p.fraction(path+".grey.frac", v.Grey.Frac)
	p.fraction(path+".unknown_user_frac", v.UnknownUsers)
	p.penalty(path+".penalty", v.Penalty)
	p.block(path+".block", v.Block)
	for i, o := range v.Outage {
		at := fmt.Sprintf("%s.outage[%d]", path, i)
		if o.Len == 0 {
			p.addf(at+".len", "is missing")
		}
		if !slices.Contains(OutageKinds, o.Kind) {
			p.addf(at+".kind", "is %q, want one of %q", o.Kind, OutageKinds)
		}
	}
	if w := v.Warmup; w.On {
		if w.R0 <= 0 {
			p.addf(path+".warmup.r0", "is %g, want more than 0", w.R0)
		}
		p.atLeast(path+".warmup.factor", w.Factor, 1)
		if w.Day == 0 {
			p.addf(path+".warmup.day", "is missing")
		}
	}
	p.reports(path, v)
	p.texts(path+".texts", v.Texts)
	if !slices.Contains([]string{"", "mail", "rcpt", "data"}, v.RefuseAt) {
		p.addf(path+".refuse_at", "is %q, want mail, rcpt or data", v.RefuseAt)
	}
}

func (p *problems) penalty(path string, v Penalty) {
	p.fraction(path+".refused_frac", v.RefusedFrac)
	p.fraction(path+".down_per_min", v.DownPerMinute)
	p.atLeast(path+".up_per_min", v.UpPerMinute, 0)
	p.fraction(path+".floor", v.Floor)
	if v.On && v.RefusedFrac == 0 {
		p.addf(path+".refused_frac", "is missing")
	}
}

func (p *problems) block(path string, v Block) {
	p.fraction(path+".trigger_frac", v.TriggerFrac)
	if v.On && v.TriggerFrac == 0 {
		p.addf(path+".trigger_frac", "is missing")
	}
	if v.On && v.Window == 0 {
		p.addf(path+".window", "is missing")
	}
	if (v.On || v.Extend) && v.Len == 0 {
		p.addf(path+".len", "is missing")
	}
	for i, s := range v.Scripted {
		if s.Len == 0 {
			p.addf(fmt.Sprintf("%s.scripted[%d].len", path, i), "is missing")
		}
	}
}

func (p *problems) reports(path string, v *Provider) {
	c, b := v.Complaints, v.AsyncBounces
	p.fraction(path+".complaints.base", c.Base)
	needsFBL := c.Base > 0
	for _, tenant := range slices.Sorted(maps.Keys(c.Rates)) {
		p.fraction(path+".complaints.rates."+tenant, c.Rates[tenant])
		needsFBL = needsFBL || c.Rates[tenant] > 0
	}
	if len(c.Rates) > 0 && c.PerTenantHeader == "" {
		p.addf(path+".complaints.per_tenant_header", "is missing, rates needs it")
	}
	if c.FBLFrac != nil {
		p.fraction(path+".complaints.fbl_frac", *c.FBLFrac)
		needsFBL = needsFBL && *c.FBLFrac > 0
	}
	p.interval(path+".complaints.delay_s", c.DelaySeconds)
	p.fraction(path+".async_bounces.frac", b.Frac)
	p.interval(path+".async_bounces.delay_s", b.DelaySeconds)
	if needsFBL && c.FBLTo == "" {
		p.addf(path+".complaints.fbl_to", "is missing")
	}
	if b.Frac > 0 && b.To == "" && c.FBLTo == "" {
		p.addf(path+".async_bounces.to", "is missing, and there is no complaints.fbl_to")
	}
	if c.FBLTo != "" {
		if _, err := ParseTarget(c.FBLTo); err != nil {
			p.addf(path+".complaints.fbl_to", "%v", err)
		}
	}
	if b.To != "" {
		if _, err := ParseTarget(b.To); err != nil {
			p.addf(path+".async_bounces.to", "%v", err)
		}
	}
}

func (p *problems) texts(path string, texts map[string]string) {
	for _, class := range slices.Sorted(maps.Keys(texts)) {
		at, text := path+"."+class, texts[class]
		digits, ok := textClasses[class]
		if !ok {
			p.addf(at, "no such class, want one of %s", strings.Join(slices.Sorted(maps.Keys(textClasses)), ", "))
			continue
		}
		for line := range strings.SplitSeq(text, "\n") {
			switch {
			case !replyLine.MatchString(line):
				p.addf(at, "%q does not begin with a reply code and text", line)
			case !strings.Contains(digits, line[:1]) || line[:3] != text[:3]:
				p.addf(at, "%q: class %s takes one reply code of %sxx", line, class, strings.Join(strings.Split(digits, ""), "xx or "))
			case len(line) > maxReplyLine:
				p.addf(at, "a line of %d octets, at most %d fit", len(line), maxReplyLine)
			case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }):
				p.addf(at, "%q holds something that is not printable ASCII", line)
			}
		}
		for _, ph := range placeholder.FindAllString(text, -1) {
			if !slices.Contains([]string{"{ip}", "{mx}", "{rcpt}"}, ph) {
				p.addf(at, "no such placeholder %s, want {ip}, {mx} or {rcpt}", ph)
			}
		}
	}
}

func (p *problems) load(path string, l *Load, domains map[string]string) {
	if len(l.Domains) == 0 {
		p.addf(path+".domains", "is empty")
	}
	sum := 0.0
	for _, d := range slices.Sorted(maps.Keys(l.Domains)) {
		p.atLeast(path+".domains."+d, l.Domains[d], 0)
		sum += l.Domains[d]
		if _, ok := domains[d]; !ok {
			p.addf(path+".domains."+d, "no provider has this domain")
		}
	}
	if len(l.Domains) > 0 && sum <= 0 {
		p.addf(path+".domains", "the weights add up to nothing")
	}
	if len(l.PerS) == 0 && l.Backlog == 0 {
		p.addf(path+".per_s", "is empty, and there is no backlog")
	}
	ats := make([]Duration, 0, len(l.PerS))
	for i, s := range l.PerS {
		ats = append(ats, s.At)
		p.atLeast(fmt.Sprintf("%s.per_s[%d].v", path, i), s.V, 0)
	}
	p.schedule(path+".per_s", ats)
	p.atLeast(path+".backlog", float64(l.Backlog), 0)
}

// schedule checks that steps begin at 0 and follow one another.
func (p *problems) schedule(path string, ats []Duration) {
	for i, at := range ats {
		if i == 0 && at != 0 {
			p.addf(path+"[0].at", `is %s, the first step begins at "0s"`, at)
		}
		if i > 0 && at <= ats[i-1] {
			p.addf(fmt.Sprintf("%s[%d].at", path, i), "is %s, not after the step before it", at)
		}
	}
}

func (p *problems) host(path, name string) {
	if !hostName.MatchString(name) || len(name) > 253 {
		p.addf(path, "%q is not a lower-case domain name", name)
	}
}

func (p *problems) fraction(path string, v float64) {
	if v < 0 || v > 1 {
		p.addf(path, "is %g, want 0 to 1", v)
	}
}

func (p *problems) atLeast(path string, v, least float64) {
	if v < least || v > math.MaxInt32 {
		p.addf(path, "is %g, want at least %g (and a sane size)", v, least)
	}
}

func (p *problems) interval(path string, v [2]float64) {
	if v[0] < 0 || v[1] < v[0] || v[1] > 30*24*time.Hour.Seconds() {
		p.addf(path, "is [%g, %g], want from and to in this order", v[0], v[1])
	}
}

// Target is where reports are sent.
type Target struct {
	Addr      string // host:port
	Recipient string // of complaints
}

// ParseTarget parses smtp://HOST:PORT[/ADDRESS].
func ParseTarget(text string) (Target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "smtp" || u.Port() == "" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil {
		return Target{}, fmt.Errorf("%q is not smtp://HOST:PORT[/ADDRESS]", text)
	}
	t := Target{Addr: u.Host, Recipient: strings.TrimPrefix(u.Path, "/")}
	switch {
	case t.Recipient == "" && net.ParseIP(u.Hostname()) != nil:
		t.Recipient = "fbl@[" + u.Hostname() + "]"
	case t.Recipient == "":
		t.Recipient = "fbl@" + u.Hostname()
	case strings.ContainsAny(t.Recipient, " <>\r\n") || !strings.Contains(t.Recipient, "@"):
		return Target{}, fmt.Errorf("%q: %q is not a mail address", text, t.Recipient)
	}
	return t, nil
}
