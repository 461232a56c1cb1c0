// proof.mjs FOLDER: opens the pages of a folder in Chromium and reports what is wrong with them.
//
// product-*.html: one product each, as caption.img_tag, open_graph and json_ld make it. No violation
//   of axe's rules, of GitHub's rules for alternative texts, of structured data.
// faulty.html: a page with planted faults. The proof fails unless each of them is found.
// sheet.html: a contact sheet. No violation of axe at 360 and 1440 pixels; it can be used with the
//   keyboard; its CSV is saved as review.csv.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const tools = createRequire(join(process.env.PROOF_TOOLS, 'package.json'))
const load = async (name, entry) => import(pathToFileURL(join(process.env.PROOF_TOOLS,
  'node_modules', name, entry)))
const { chromium } = tools('playwright-core')
const axe = readFileSync(tools.resolve('axe-core/axe.min.js'), 'utf8')
const { default: altTexts } = await load('@github/accessibility-scanner-alt-text-plugin',
  'dist/index.js')
const { default: validate } = await import('./structured.mjs')

const folder = resolve(process.argv[2])
const address = name => pathToFileURL(join(folder, name)).href
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM, args: ['--no-sandbox'],
})
let wrong = 0
const fail = message => { wrong += 1; console.log(`wrong: ${message}`) }

async function axeRules(page) {
  await page.evaluate(axe)
  const found = await page.evaluate(() => axe.run(document))
  return found.violations.map(rule => `${rule.id} (${rule.nodes[0].html.slice(0, 120)})`)
}

async function descriptions(page) {
  const all = await page.$$eval('meta[name=description]', tags => tags.map(tag => tag.content))
  return all.length === 1 && all[0].trim() ? [] : ['meta-description']
}

async function githubRules(page) {
  const found = []
  await altTexts({ page, addFinding: finding => { found.push(`github ${finding.ruleId}`) } })
  return found
}

async function problems(page, name) {
  await page.goto(address(name))
  return [...await axeRules(page), ...await descriptions(page), ...await githubRules(page),
    ...await validate(await page.content())]
}

async function sheet(width) {
  const context = await browser.newContext({
    viewport: { width, height: 900 }, acceptDownloads: true,
  })
  const page = await context.newPage()
  page.on('console', message => {
    if (message.type() === 'error') { fail(`sheet.html: ${message.text()}`) }
  })
  await page.goto(address('sheet.html'))
  for (const rule of await axeRules(page)) { fail(`sheet.html at ${width} px: ${rule}`) }
  const overflow = await page.evaluate(() =>
    document.documentElement.scrollWidth - document.documentElement.clientWidth)
  if (overflow > 0) { fail(`sheet.html at ${width} px is ${overflow} px too wide`) }
  await page.screenshot({ path: join(folder, `sheet-${width}.png`) })
  // The first is approved, the second rejected with the keyboard; the third is changed.
  const texts = page.locator('textarea')
  await texts.nth(0).focus()
  await page.keyboard.press('Control+Enter')
  await page.keyboard.press('Control+Shift+Enter')
  const focused = await page.evaluate(() => document.activeElement.id)
  if (focused !== await texts.nth(2).getAttribute('id')) { fail('the keyboard moves on') }
  await texts.nth(2).fill('=Changed, "by hand"\nin two lines')
  const count = await page.locator('#count').textContent()
  if (!count.startsWith('1 approved, 1 rejected')) { fail(`sheet.html counts: ${count}`) }
  const download = page.waitForEvent('download')
  await page.getByRole('button', { name: 'Save as CSV' }).click()
  await (await download).saveAs(join(folder, 'review.csv'))
  await context.close()
}

const products = readdirSync(folder).filter(name => name.startsWith('product-'))
const page = await browser.newPage()
for (const name of products) {
  for (const problem of await problems(page, name)) { fail(`${name}: ${problem}`) }
}
const planted = ['image-alt', 'image-redundant-alt', 'meta-description', 'github filename-alt-text',
  'structured-data']
const found = await problems(page, 'faulty.html')
for (const fault of planted) {
  if (!found.some(problem => problem.startsWith(fault))) { fail(`${fault} was not found`) }
}
if (existsSync(join(folder, 'sheet.html'))) { for (const width of [1440, 360]) { await sheet(width) } }
await browser.close()
console.log(`${products.length} pages of products, ${planted.length} planted faults: ` +
  (wrong ? `${wrong} wrong` : 'as they should be'))
process.exit(wrong ? 1 : 0)
