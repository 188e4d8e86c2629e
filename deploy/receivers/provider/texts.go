package provider

// defaults are the replies of a provider whose scenario gives none for a class.
var defaults = map[Class]string{
	OK:    "250 2.0.0 Ok: queued",
	Rate:  "451 4.7.1 Rate limit exceeded for [{ip}], slow down",
	Conn:  "421 4.7.0 Too many connections from [{ip}]",
	Msgc:  "421 4.7.0 Too many messages in this session",
	Block: "451 4.7.1 Mail from [{ip}] is temporarily blocked due to poor reputation",
	Grey:  "451 4.7.1 Greylisted, try again later",
	Unav:  "421 4.3.2 Service not available, try again later",
	User:  "550 5.1.1 <{rcpt}>: Recipient address rejected: User unknown",
}

// ambiguous is the one text of a provider that does not say why it defers.
const ambiguous = "451 4.3.0 Temporary failure, please try again later"

func (p *Provider) verdict(c Class) Verdict {
	if p.cfg.Ambiguous && (c == Rate || c == Block || c == Grey) {
		return Verdict{Class: c, Reply: ambiguous}
	}
	return Verdict{Class: c, Reply: p.text(c)}
}

func (p *Provider) text(c Class) string {
	if text, ok := p.cfg.Texts[string(c)]; ok {
		return text
	}
	return defaults[c]
}

// Text returns the reply for c as the scenario has it, however ambiguous the provider is.
func (p *Provider) Text(c Class) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text(c)
}
