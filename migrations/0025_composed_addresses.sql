-- The normal form of an address is in normalization form C. Former releases also stored others: of Hangul, and of vowel
-- signs that compose. The program would not find these. It refuses the Kelvin sign, U+212A, whose normalization form C
-- is the letter K: such addresses stay as they are. No other normal form has a capital letter of ASCII.
--
-- What a server of release 0.3 writes afterwards is found once the address is written again.
--
-- Reads the users and the invitations once, and writes few. Where an organization has pending invitations to several forms
-- of an address, those that are not composed stay; they can be listed and revoked.
DO $$
BEGIN
    UPDATE users SET email_normal = normalize(email_normal, NFC)
    WHERE octet_length(email_normal) <> char_length(email_normal) AND email_normal IS NOT NFC NORMALIZED
        AND normalize(email_normal, NFC) !~ '[A-Z]';
    UPDATE invitations i SET identifier_normal = normalize(i.identifier_normal, NFC)
    WHERE i.is_email AND octet_length(i.identifier_normal) <> char_length(i.identifier_normal)
        AND i.identifier_normal IS NOT NFC NORMALIZED AND normalize(i.identifier_normal, NFC) !~ '[A-Z]'
        AND NOT EXISTS (
            SELECT FROM invitations other
            WHERE other.bucket = i.bucket AND other.organization_id = i.organization_id AND other.id <> i.id
                AND other.is_email AND other.state = 'PENDING' AND i.state = 'PENDING'
                AND normalize(other.identifier_normal, NFC) = normalize(i.identifier_normal, NFC)
        );
END
$$;
