// An OpenID provider on loopback, for the tests of keys that roster fetches by URL. Its settings come from the
// environment: PORT; KEYS, the private keys as a JSON list of JWKs, of which the first signs; SKEW, the seconds by which
// its clock is fast. It prints a line when it listens.
import Provider from 'oidc-provider';

const { PORT, KEYS, SKEW = '0' } = process.env;
const now = Date.now;
Date.now = () => now() + Number(SKEW) * 1000;

const issuer = `http://127.0.0.1:${PORT}`;
const keys = JSON.parse(KEYS);
const resource = {
  scope: 'roster:check',
  audience: 'roster',
  accessTokenFormat: 'jwt',
  // Shorter than the largest difference between the clocks.
  accessTokenTTL: 30,
  jwt: { sign: { alg: keys[0].alg } },
};
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'billing',
      client_secret: 'a-secret-of-the-tests',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: keys[0].alg,
    },
  ],
  jwks: { keys },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:roster',
      getResourceServerInfo: () => resource,
    },
  },
});
provider.listen(Number(PORT), '127.0.0.1', () => console.log(`listening at ${issuer}`));
