// The structured data of a page: what a search engine would refuse. It is JSON of schema.org, and
// has what Google's rich results require.
import { join } from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const tools = createRequire(join(process.env.PROOF_TOOLS, 'package.json'))
const load = async name => (await import(pathToFileURL(tools.resolve(name)))).default
const folder = join(process.env.PROOF_TOOLS, 'node_modules')
const { default: Validator } = await import(pathToFileURL(
  join(folder, '@adobe/structured-data-validator/src/index.js')))
const WebAutoExtractor = await load('@marbec/web-auto-extractor')

export default async function validate(html) {
  const scripts = [...html.matchAll(
    /<script type="application\/ld\+json">(.*?)<\/script>/gs)].map(match => match[1])
  const problems = []
  if (scripts.length !== 1) { problems.push(`structured-data: ${scripts.length} scripts`) }
  for (const script of scripts) {
    try {
      const data = JSON.parse(script)
      if (!/^https:\/\/schema\.org\/?$/.test(data['@context'])) { throw new Error('no context') }
      for (const member of ['@type', 'name', 'image']) {
        if (!data[member]) { throw new Error(`no ${member}`) }
      }
    } catch (error) { problems.push(`structured-data: ${error.message}`) }
  }
  try {
    const data = new WebAutoExtractor({ addLocation: true }).parse(html)
    for (const issue of await new Validator().validate(data)) {
      if (issue.severity === 'ERROR') { problems.push(`structured-data: ${issue.issueMessage}`) }
    }
  } catch (error) { problems.push(`structured-data: ${error.message}`) }
  return problems
}
