package classify

import (
	"testing"

	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// TestServers holds the rules to the replies of mail servers, as their sources and manuals have
// them: what a general word decides must not be taken by another one beside it.
func TestServers(t *testing.T) {
	for _, tc := range []struct {
		category taxonomy.Category
		replies  []string
	}{
		{taxonomy.BadMailbox, []string{
			"550 5.1.1 <ann@mail.example>: Recipient address rejected: User unknown in local recipient table", // Postfix
			"550 5.1.1 <spam@mail.example>: Recipient address rejected: User unknown",                         // a name is no word
			"host blacklist.mail.example[198.51.100.7] said: 550 5.1.1 User unknown",                          // nor is a host's
			"550 Unknown user", // Exim
			"550 5.1.1 <ann@mail.example>... User unknown",         // Sendmail
			"Sorry, no mailbox here by that name. (#5.1.1)",        // qmail
			"550 5.1.1 <ann@mail.example> User doesn't exist: ann", // Dovecot
			"550-Mailbox unknown. Either there is no mailbox associated with this\n550-name or you do not have authorization to see it.\n550 5.1.1 User unknown", // Cyrus
			"550 I cannot deliver mail for {ann@mail.example}",                                                       // Haraka
			"550 Invalid recipient: <ann@mail.example>",                                                              // OpenSMTPD
			"550 - Requested action not taken: no such user here",                                                    // James
			"User ann (ann@mail.example) not listed in Domino Directory",                                             // Domino
			"550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient ann@mail.example not found by SMTP address lookup", // Exchange
			"550 User ann does not exist on this server",
			"550 #5.1.0 Address rejected.",
			"550 No such recipient: blocked senders and unknown users get this",
		}},
		{taxonomy.InactiveMailbox, []string{
			"550 5.2.1 The email account that you tried to reach is inactive.",
			"550 This account has been terminated",
			"550 5.2.1 Mailbox disabled for this recipient",
			"525 5.7.13 <ann@mail.example>: Recipient address rejected: Disabled recipient address",
		}},
		{taxonomy.Moved, []string{"551 5.1.6 User has moved; please try <ann@new.example>", "550 5.1.6 Destination mailbox has moved, No forwarding address"}},
		{taxonomy.RecipientRefused, []string{
			"550 5.7.1 The recipient does not accept mail from this sender",
			"550 Message rejected by recipient",
			"550 5.7.1 RESOLVER.RST.NotAuthorized; not authorized",
		}},
		{taxonomy.BadDomain, []string{
			"450 4.1.2 <ann@nowhere.example>: Recipient address rejected: Domain not found",
			"550 5.1.2 <ann@nowhere.example>... Host unknown (Name server: nowhere.example: host not found)",
			"Sorry, I couldn't find any host named nowhere.example. (#5.1.2)",
			"Unrouteable mail domain \"nowhere.example\"",
			"Host or domain name not found. Name service error for name=nowhere.example type=A: Host not found",
			"556 5.1.10 Domain does not accept mail (nullMX)",
			"550 5.4.310 DNS domain nowhere.example does not exist",
		}},
		{taxonomy.MailboxFull, []string{
			"552 5.2.2 <ann@mail.example> Quota exceeded (mailbox for user is full)",
			"452 4.2.2 Over quota SESSIONID=<mail-1>",
			"550 Mailbox quota exceeded",
			"552 5.2.2 STOREDRV.Deliver; mailbox full",
			"552 Benutzer hat das Speichervolumen überschritten",
		}},
		{taxonomy.MessageTooBig, []string{
			"552 5.3.4 Message size exceeds fixed limit",
			"552 Message size exceeds maximum permitted",
			"552 5.2.3 Message is too large; 10000 bytes max",
			"552 sorry, that message size exceeds my databytes limit (#5.3.4)",
			"550 5.3.4 ROUTING.SizeLimit; message size exceeds fixed maximum size for route",
		}},
		{taxonomy.RateLimited, []string{
			"421 Too many concurrent SMTP connections; please try again later.",
			"421 4.3.2 Connection rate limit exceeded.",
			"421 4.3.2 Too many open connections.",
			"452 4.5.3 Too many recipients",
			"450 4.7.1 Error: too much mail from 192.0.2.7",
			"451 4.7.1 <ann@mail.example>: Recipient address rejected: Policy: message rate exceeded, 100 per hour",
		}},
		{taxonomy.Greylisted, []string{
			"450 4.2.0 <ann@mail.example>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/mail.example.html",
			"451 4.7.1 Greylisting in action, please come back in 00:05:00",
			"451 4.7.1 Try again later", // rspamd
		}},
		{taxonomy.SpamBlock, []string{
			"554 5.7.1 <mx.shop.example[192.0.2.7]>: Client host rejected: Access denied",
			"550 Rejected because 192.0.2.7 is in a black list at zen.spamhaus.org",
			"554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using b.barracudacentral.org",
			"554 IP=192.0.2.7 - Dialup/transient IP not allowed. Use a mailgateway",
			"550 5.7.1 Mail from 192.0.2.7 refused because of its reputation",
			"421 4.7.1 Too many unknown users from 192.0.2.7",
		}},
		{taxonomy.SpamContent, []string{
			"554 5.7.1 Spam message rejected",   // rspamd
			"550 5.7.1 Blocked by SpamAssassin", // spamass-milter
			"550 High probability of spam",      // SpamExperts
			"550 5.7.350 Remote server returned message detected as spam",
			"554 5.7.0 Reject, id=01234-05 - SPAM",
			"550 5.7.1 This message looks like spam to user ann",
		}},
		{taxonomy.Virus, []string{"554 5.7.0 Reject, id=01234-05 - INFECTED: Eicar-Test-Signature", "550 This message contains a virus (Eicar)"}},
		{taxonomy.BadContent, []string{
			"554 5.7.0 Reject, id=01234-05 - BANNED: .exe,invoice.exe",
			"550 5.6.7 SMTPUTF8 is required, but was not offered by host mx.mail.example",
			"550 5.6.211 Invalid MIME Content: number of MIME parts exceeded",
			"554 5.6.0 Attachments of this type are not accepted",
		}},
		{taxonomy.Policy, []string{
			"550 Administrative prohibition",
			"554 5.7.1 <ann@mail.example>: Recipient address rejected: Access denied",
			"550 5.7.0 Local Policy Violation",
			"550 5.0.0 Access denied",
			"554 Mail for ann rejected for policy reasons",
		}},
		{taxonomy.AuthFailed, []string{
			"450 4.7.1 <mx.shop.example>: Helo command rejected: Host not found",
			"450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.7]",
			"550 5.7.26 This message fails to pass SPF checks for an SPF record with a hard fail policy (-all)",
			"550 5.7.1 Email rejected per DMARC policy for shop.example",
			"550 5.7.23 <ann@mail.example>: Recipient address rejected: Message rejected due to: SPF fail - not authorized",
		}},
		{taxonomy.TLSRequired, []string{"454 4.7.0 TLS not available due to local problem", "530 5.7.0 Must issue a STARTTLS command first", "553 This route requires encryption (TLS)"}},
		{taxonomy.InvalidSender, []string{
			"554 5.7.1 <news@shop.example>: Sender address rejected: Access denied",
			"553 5.7.1 <news@shop.example>: Sender address rejected: not owned by user ann",
			"550 5.1.0 <news@shop.example>: Sender address rejected: User unknown in virtual mailbox table",
			"450 4.1.8 <news@shop.example>: Sender address rejected: Domain not found",
			"550-Verification failed for <news@shop.example>\n550-No Such User Here\n550 Sender verify failed",
			"451 Could not complete sender verify callout",
			"501 <news>: sender address must contain a domain",
			"553 5.5.4 <news>... Domain name required for sender address news",
			"451 4.1.8 Domain of sender address news@shop.example does not resolve",
			"553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)",
			"550 5.7.60 SMTP; Client does not have permissions to send as this sender",
		}},
		{taxonomy.RelayDenied, []string{
			"550 relay not permitted",
			"550 5.7.1 <ann@mail.example>... Relaying denied",
			"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
			"550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
			"535 5.7.8 Error: authentication failed: authentication failure",
			"503 This mail server requires authentication when attempting to send to a non-local e-mail address",
		}},
		{taxonomy.Routing, []string{
			"550 Unrouteable address", "554 5.4.6 Too many hops", "554 too many hops, this message is looping (#5.4.6)",
			"This message is looping: it already has my Delivered-To line. (#5.4.6)", "524 5.2.4 Mailing list expansion problem",
		}},
		{taxonomy.DNSFailure, []string{"CNAME lookup failed temporarily. (#4.4.3)", "451 4.4.3 Host or domain name not found. Name service error for name=mail.example type=MX: Host not found, try again"}},
		{taxonomy.Connection, []string{
			"421 4.4.2 mx.mail.example Error: timeout exceeded", "connect to mx.mail.example[198.51.100.7]:25: Connection refused",
			"lost connection with mx.mail.example[198.51.100.7] while receiving the initial server greeting", "connect to mx.mail.example[2001:db8::1]:25: Network is unreachable",
		}},
		{taxonomy.Expired, []string{"retry timeout exceeded", "I'm not going to try again; this message has been in the queue too long.", "all hosts for 'mail.example' have been failing for a long time (and retry time not reached)"}},
		{taxonomy.Protocol, []string{
			"503 5.5.1 Error: need RCPT command", "554 5.5.1 Error: no valid recipients", "501 5.5.4 Syntax: EHLO hostname", "502 5.5.2 Error: command not recognized",
			"554 SMTP synchronization error", "451 See http://pobox.com/~djb/docs/smtplf.html.", "503 AUTH command used when not advertised", "421 4.7.0 mx.mail.example Error: too many errors",
		}},
		{taxonomy.System, []string{
			"452 4.3.1 Insufficient system storage", "421 4.3.2 All server ports are busy", "451 4.3.0 Error: queue file write error", "451 Temporary local problem - please try later",
			"421 Unexpected failure, please try later", "452 4.4.5 Insufficient disk space; try again later", "451 qq trouble in home directory (#4.3.0)",
			"451 4.2.0 <ann@mail.example> Execution of Sieve filters was aborted due to temporary failure", "452 4.3.1 Insufficient system resources (UsedVersionBuckets[198])", "421 4.3.2 Service not active",
		}},
	} {
		for _, reply := range tc.replies {
			if v := Classify(Input{Reply: smtpstatus.Parse(reply)}); v.Category != tc.category {
				t.Errorf("%q is %s by %s, want %s", reply, v.Category, v.Rule, tc.category)
			}
		}
	}
}
