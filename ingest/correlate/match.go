package correlate

import (
	"errors"
	"strings"
	"time"

	"carom/schemas/suppression"
)

// Method is how a report was joined to its message: the value of the event's match_method.
type Method string

// The methods, the most telling first.
const (
	ReturnPath      Method = "return-path"      // the report came to the address that was signed
	ReferenceHeader Method = "reference-header" // the returned header has the field
	EnvelopeID      Method = "envid"            // the report names the ENVID
	None            Method = "none"

	// DKIMReporter is a feedback report without a token whose author has signed it, an author whom
	// the operator trusts. It names a recipient; which message it was, a job finds out.
	DKIMReporter Method = "dkim-reporter"
	// VERPAddress is a report that came to a plain VERP address, which anybody can write.
	VERPAddress Method = "verp"
	// ByMessageID and ByRecipient are how a job finds the delivery that a report without a proof may be
	// about: by the Message-ID that it quotes, or by whom it names.
	ByMessageID Method = "message-id"
	ByRecipient Method = "recipient"
)

// Proves reports whether a match by m rests on something that a stranger cannot write: a signature.
func (m Method) Proves() bool {
	return m == ReturnPath || m == ReferenceHeader || m == EnvelopeID || m == DKIMReporter
}

// maxTokens bounds the tokens that are verified for one report.
const maxTokens = 32

// Evidence is what a report offers as references. All of it is foreign.
type Evidence struct {
	ReturnPaths []string // recipients of the report's own envelope
	References  []string // values of Field in the returned header
	EnvelopeIDs []string // Original-Envelope-Id
	Addresses   []string // by which the report names the recipient; may be empty (RFC 6590)
}

// Match is what evidence proves.
type Match struct {
	Ref        Ref     // zero with None, unless Err is ErrExpired
	Method     Method  // None: nothing is proven
	Confidence float32 // 0 with None

	// Claimed is the recipient that a VERP address names; "" with every other method.
	Claimed string

	// Address is the reported address that the token was signed for. It suppresses at once; with
	// "" nobody may be suppressed by this report alone, because a token names no address.
	Address string

	// Err says why a token was not believed when Method is None: ErrUnknownKey, ErrForged or
	// ErrExpired; nil if there was no token at all.
	Err error
}

// The confidence that goes with each method: a verified token is 1 if the reported address
// is the one it was signed for. Without that the way of the token decides: the return path is
// chosen by the last hop's MAIL FROM, the other two are quoted by the report's author.
const (
	provenConfidence     = 1
	returnPathConfidence = 0.9
	quotedConfidence     = 0.7

	// DKIMConfidence is that of a signed report of a trusted reporter: true, but of which message?
	DKIMConfidence = 0.9
	// verpConfidence is that of a VERP address that agrees with the report, or stands alone.
	verpConfidence = 0.5
	// vagueConfidence is that of one which can be read in several ways.
	vagueConfidence = 0.3
)

// Match returns the best reference that e proves at now: one whose tag matches a reported address
// before one whose tag does not, and among equals the earlier method. A forged or expired reference
// gives None. Without any reference a plain VERP address counts a little: it proves nothing.
func (k *Keys) Match(e Evidence, now time.Time) Match {
	best := Match{Method: None}
	tokens := 0
	for _, source := range []struct {
		method     Method
		confidence float32
		values     []string
		find       func(string) (string, bool)
	}{
		{ReturnPath, returnPathConfidence, e.ReturnPaths, FromReturnPath},
		{ReferenceHeader, quotedConfidence, e.References, Find},
		{EnvelopeID, quotedConfidence, e.EnvelopeIDs, Find},
	} {
		for _, value := range source.values {
			token, ok := source.find(value)
			if !ok {
				continue
			}
			if tokens++; tokens > maxTokens {
				return best
			}
			ref, err := k.Verify(token, now)
			if err != nil {
				best.refuse(ref, err)
				continue
			}
			if address, ok := matching(ref, e.Addresses); ok {
				return Match{Ref: ref, Method: source.method, Confidence: provenConfidence, Address: address}
			}
			if best.Method == None {
				best = Match{Ref: ref, Method: source.method, Confidence: source.confidence}
			}
		}
	}
	if best.Method == None && best.Err == nil {
		return verp(e)
	}
	return best
}

// verp returns the match by the first VERP address that goes with a reported address, or that is the
// only one to say whom the report is about.
func verp(e Evidence) Match {
	for _, path := range e.ReturnPaths[:min(len(e.ReturnPaths), maxTokens)] {
		readings := ParseVERP(path)
		for _, v := range readings {
			for _, address := range e.Addresses[:min(len(e.Addresses), maxTokens)] {
				if suppression.Normalize(address) == suppression.Normalize(v.Recipient) {
					return Match{Method: VERPAddress, Confidence: verpConfidence, Claimed: address}
				}
			}
		}
		switch {
		case len(readings) == 0 || !silent(e.Addresses):
		case len(readings) == 1:
			return Match{Method: VERPAddress, Confidence: verpConfidence, Claimed: readings[0].Recipient}
		default:
			return Match{Method: VERPAddress, Confidence: vagueConfidence, Claimed: readings[0].Recipient}
		}
	}
	return Match{Method: None}
}

// silent reports whether no address is named: RFC 6590 lets reporters blank them out.
func silent(addresses []string) bool {
	for _, address := range addresses {
		if strings.Contains(address, "@") {
			return false
		}
	}
	return true
}

// refuse keeps the reason why there is no match; an expired token tells more than a forged one.
func (m *Match) refuse(ref Ref, err error) {
	if m.Method != None || errors.Is(m.Err, ErrExpired) {
		return
	}
	m.Ref, m.Err = ref, err
}

func matching(ref Ref, addresses []string) (string, bool) {
	for _, address := range addresses[:min(len(addresses), maxTokens)] {
		if ref.Matches(address) {
			return address, true
		}
	}
	return "", false
}
