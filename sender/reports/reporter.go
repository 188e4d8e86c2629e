package reports

import (
	"bytes"
	"context"
	netmail "net/mail"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"carom/ingest/correlate"
	"carom/ingest/mime"
	"carom/sender/route"
)

// LookupTXT returns the TXT records of a name, each joined from its strings.
type LookupTXT func(ctx context.Context, name string) ([]string, error)

const (
	// verifyTime bounds the verification of one report: the sender waits for his answer.
	verifyTime = 10 * time.Second
	// maxSignatures bounds the signatures that are verified of one report. The reporter's own is
	// among the first; forwarders put theirs in front.
	maxSignatures = 5
)

// reporter returns the trusted domain that has signed a report, or "". It is asked for only where it
// may count: some recipient is named without a proof, and the report says that it comes from such a
// domain.
//
// The signature must be by the domain of From itself and cover From and the whole body: with l= in
// any signature a stranger adds what he likes. Signature and domain prove who wrote the report, not that he
// is honest.
func (p *Processor) reporter(ctx context.Context, m Mail, matches []correlate.Match, reported []string) string {
	asked := false
	for i, match := range matches {
		asked = asked || match.Method == correlate.None && strings.Contains(reported[i], "@")
	}
	if !asked || p.txt == nil || len(m.Handling.Trusted) == 0 {
		return ""
	}
	header, _, err := mime.ParseHeader(m.Content, 0)
	if err != nil || len(header.Values("From")) != 1 {
		return ""
	}
	list, err := netmail.ParseAddressList(cut(header.Get("From"), maxText))
	if err != nil || len(list) != 1 {
		return ""
	}
	from := route.Domain(list[0].Address)
	if !slices.Contains(m.Handling.Trusted, from) {
		return ""
	}
	signed := false
	for _, signature := range header.Values("Dkim-Signature") {
		if limitsBody(signature) {
			return ""
		}
		signed = signed || strings.Contains(strings.ToLower(signature), from)
	}
	if !signed {
		return "" // nothing to ask the name servers for
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	// With too many signatures those that were verified are returned beside the error.
	verified, _ := dkim.VerifyWithOptions(bytes.NewReader(m.Content), &dkim.VerifyOptions{
		LookupTXT:        func(name string) ([]string, error) { return p.txt(ctx, name) },
		MaxVerifications: maxSignatures,
	})
	for _, v := range verified {
		if v.Err == nil && strings.EqualFold(v.Domain, from) {
			return from
		}
	}
	return ""
}

// limitsBody reports whether a signature covers only the first octets of the body (RFC 6376 section
// 3.5, tag l).
func limitsBody(signature string) bool {
	for tag := range strings.SplitSeq(signature, ";") {
		if name, _, ok := strings.Cut(tag, "="); ok && strings.TrimSpace(name) == "l" {
			return true
		}
	}
	return false
}

// mailboxDomain reports whether the reported address is in the reporter's own domain: then that
// domain signs what its users write as well, and its signature proves nothing.
func mailboxDomain(address, reporter string) bool { return route.Domain(address) == reporter }
