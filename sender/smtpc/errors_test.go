package smtpc

import (
	"errors"
	"testing"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

func TestErrorStatus(t *testing.T) {
	for _, tc := range []struct {
		name      string
		err       Error
		want      string
		temporary bool
	}{
		{"the peer's own", Error{Phase: event.PhaseGreeting, Reply: smtpstatus.New(554, "5.7.1 no")}, "5.7.1", false},
		{"permanent without a code", Error{Phase: event.PhaseGreeting, Reply: smtpstatus.New(554, "no")}, "5.0.0", false},
		{"address", Error{Phase: event.PhaseRcpt, Err: ErrAddress}, "5.1.3", false},
		{"size", Error{Phase: event.PhaseMail, Err: ErrTooBig}, "5.3.4", false},
		{"SMTPUTF8", Error{Phase: event.PhaseMail, Err: ErrNoUTF8}, "5.6.7", false},
		{"line ends", Error{Phase: event.PhaseBody, Err: ErrBareLineEnd}, "5.6.0", false},
		{"body", Error{Phase: event.PhaseBody, Err: ErrBody}, "4.3.5", true},
		{"source", Error{Phase: event.PhaseConnect, Err: ErrNotLocal}, "4.3.5", true},
		{"connect", Error{Phase: event.PhaseConnect, Err: errors.New("refused")}, "4.4.1", true},
		{"TLS", Error{Phase: event.PhaseTLS, Err: ErrNoTLS}, "4.7.0", true},
		{"no way to log in", Error{Phase: event.PhaseAuth, Err: ErrNoAuth}, "4.7.0", true},
		{"login refused", Error{Phase: event.PhaseAuth, Reply: smtpstatus.New(535, "no"), Err: ErrAuth}, "4.7.0", true},
		{"BDAT refused", Error{Phase: event.PhaseData, Err: ErrChunking}, "4.4.2", true},
		{"closed", Error{Phase: event.PhaseFinalDot, Err: ErrPeerClosed}, "4.4.2", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.err.Enhanced().String(); got != tc.want || tc.err.Temporary() != tc.temporary {
				t.Errorf("%v: got %s, temporary %v, want %s, %v", &tc.err, got, tc.err.Temporary(), tc.want, tc.temporary)
			}
		})
	}
}
